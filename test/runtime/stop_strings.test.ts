import { describe, expect, it } from 'vitest'
import { SplitMix64 } from '../../lib/random.js'
import { StopStrings } from '../../lib/runtime/stop_strings.js'

/** What comes out when the pieces go in. */
function stream(stops: string[], pieces: string[]): { shown: string[]; found: boolean } {
  const filter = new StopStrings(stops)
  const shown: string[] = []
  for (const piece of pieces) {
    shown.push(filter.push(piece))
    if (filter.found) return { shown, found: true }
  }
  shown.push(filter.end())
  return { shown, found: false }
}

describe('StopStrings', () => {
  it.each([
    [['END'], ['one ', 'END two'], ['one ', ''], true],
    [['END'], ['one E', 'N', 'D two'], ['one ', '', ''], true],
    [['END'], ['one E', 'N', 'O'], ['one ', '', 'ENO', ''], false],
    [['END'], ['E', 'EN', 'END'], ['', 'E', 'EN'], true],
    [['END'], ['one EN'], ['one ', 'EN'], false],
    [['aab'], ['aaa', 'b'], ['a', ''], true],
    [['\n\n', 'User:'], ['a\n', 'Us', 'er: b'], ['a', '\n', ''], true],
    [['b', 'abc'], ['ab'], ['a'], true],
    [['\u{1f600}!'], ['x\u{1f600}', '?', '\u{1f600}', '!'], ['x', '\u{1f600}?', '', ''], true],
    [['€'], ['a', '€'], ['a', ''], true],
    [[], ['a', 'b'], ['a', 'b', ''], false],
  ])('%j in %j', (stops, pieces, shown, found) => {
    expect(stream(stops, pieces)).toEqual({ shown, found })
  })

  it('gives what a search of the whole text would, however it is cut', () => {
    const random = new SplitMix64(1)
    const letters = (count: number) => Array.from({ length: count }, () => 'ab€'[random.below(3)]).join('')
    for (let i = 0; i < 2000; i++) {
      const text = letters(random.below(24))
      const stops = Array.from({ length: 1 + random.below(3) }, () => letters(1 + random.below(5)))
      const pieces: string[] = []
      for (let at = 0; at < text.length; ) {
        const length = 1 + random.below(4)
        pieces.push(text.slice(at, at + length))
        at += length
      }
      const { shown, found } = stream(stops, pieces)
      // The pieces that have been seen when the first stop string is whole decide.
      const seen = pieces.slice(0, found ? shown.length : undefined).join('')
      const places = stops.map((stop) => seen.indexOf(stop)).filter((place) => place >= 0)
      expect(shown.join('')).toBe(found ? seen.slice(0, Math.min(...places)) : text)
      expect(found).toBe(stops.some((stop) => text.includes(stop)))
      if (found) {
        const before = pieces.slice(0, shown.length - 1).join('')
        expect(stops.some((stop) => before.includes(stop))).toBe(false)
      }
    }
  })
})
