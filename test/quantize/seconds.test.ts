import { expect, it } from 'vitest'
import { estimateSecondsLeft, noSeconds } from '../../lib/quantize/seconds.js'

const block = (elapsed: number, propagate: number) => ({ elapsed, seconds: { ...noSeconds(), propagate } })

it('estimates the time left from an earlier run, then from this one', () => {
  expect(estimateSecondsLeft([], { blocks: 4, resumed: 0, replayed: 0 })).toBeNull()
  const earlier = [block(10, 1), block(20, 3)]
  // Two blocks of 15 seconds, and running the two done again for the states.
  expect(estimateSecondsLeft(earlier, { blocks: 4, resumed: 2, replayed: 0 })).toBe(34)
  expect(estimateSecondsLeft(earlier, { blocks: 4, resumed: 2, replayed: 1 })).toBe(33)
  expect(estimateSecondsLeft(earlier, { blocks: 4, resumed: 2, replayed: 2 })).toBe(30)
  const more = [...earlier, block(5, 1)]
  expect(estimateSecondsLeft(more, { blocks: 4, resumed: 2, replayed: 3 })).toBe(5)
  expect(estimateSecondsLeft([...more, block(5, 1)], { blocks: 4, resumed: 2, replayed: 0 })).toBe(0)
})
