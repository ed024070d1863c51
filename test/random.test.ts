import { describe, expect, it } from 'vitest'
import { SplitMix64 } from '../lib/random.js'

describe('SplitMix64', () => {
  it('gives the published stream of seed 1234567', () => {
    const random = new SplitMix64(1234567)
    expect([random.next(), random.next(), random.next()]).toEqual([
      6457827717110365317n,
      3203168211198807973n,
      9817491932198370423n,
    ])
  })

  it('stays inside its bounds', () => {
    const random = new SplitMix64(3)
    const drawn = Array.from({ length: 1000 }, () => random.below(7))
    expect(Math.min(...drawn)).toBe(0)
    expect(Math.max(...drawn)).toBe(6)
  })

  it.each([Number.NaN, 1.5, Infinity, 2 ** 53, '7' as never])('refuses the seed %s by name', (seed) => {
    expect(() => new SplitMix64(seed, 'calibration.seed')).toThrow(
      expect.objectContaining({ code: 'SLIM_INVALID_ARGUMENT', parameter: 'calibration.seed' }),
    )
  })
})
