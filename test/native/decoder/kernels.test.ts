import { beforeAll, describe, expect, it } from 'vitest'
import { addon } from '../../../lib/native/addon.js'
import { randomFloats } from '../../support/decoder.js'
import {
  gelu,
  geluGradient,
  geluTanh,
  geluTanhGradient,
  silu,
  siluGradient,
} from '../../support/functions.js'

// The bound is relative to the value. A wide sigmoid's argument is rounded to float32 before its exponential, so the
// tails of the activations, which are small beside x, lose some digits: there the bound is relative to x.
const kernels = [
  { name: 'exp', reference: Math.exp, range: 87, bound: (value: number) => 3e-7 * value },
  { name: 'tanh', reference: Math.tanh, range: 12, bound: (value: number) => 3e-7 * Math.abs(value) },
  {
    name: 'silu',
    reference: silu,
    range: 80,
    bound: (value: number) => 5e-7 * Math.abs(value),
  },
  {
    name: 'gelu',
    reference: gelu,
    range: 9,
    bound: (value: number, x: number) => 1e-6 * Math.abs(value) + 1e-8 * Math.abs(x),
  },
  {
    name: 'geluTanh',
    reference: geluTanh,
    range: 9,
    bound: (value: number, x: number) => 1e-6 * Math.abs(value) + 1e-8 * Math.abs(x),
  },
  // The two terms of a derivative cancel near its zero and in its tails.
  { name: 'siluGradient', reference: siluGradient, range: 80, bound: () => 1e-6 },
  { name: 'geluGradient', reference: geluGradient, range: 9, bound: () => 1e-6 },
  { name: 'geluTanhGradient', reference: geluTanhGradient, range: 9, bound: () => 1e-6 },
] as const

describe.each(addon().instructionSets())('%s', (instructionSet) => {
  beforeAll(() => addon().setInstructionSet(instructionSet))

  const apply = (name: (typeof kernels)[number]['name'], x: Float32Array) =>
    addon().applyKernel(name, addon().tensorFrom(x, 'F32', [x.length]))

  it.each(kernels)('$name agrees with float64 at every magnitude', ({ name, reference, range, bound }) => {
    const wide = randomFloats(20_011, 1, range)
    const narrow = randomFloats(20_011, 2).map((x) => x ** 5)
    for (const x of [wide, narrow]) {
      const y = apply(name, x)
      for (let i = 0; i < x.length; i++) {
        const expected = reference(x[i]!)
        const error = Math.abs(y[i]! - expected)
        if (!(error <= bound(expected, x[i]!) + 1e-37))
          expect.fail(`${name}(${x[i]}) = ${y[i]}, expected ${expected}: error ${error}`)
      }
    }
  })

  it.each(kernels)('$name treats every length alike', ({ name }) => {
    const x = randomFloats(70, 3, 4)
    const whole = apply(name, x)
    for (let length = 1; length <= 70; length++)
      expect(apply(name, x.slice(0, length))).toEqual(whole.slice(0, length))
  })

  it('keeps limits, zeros and NaN', () => {
    const x = Float32Array.of(
      Number.NEGATIVE_INFINITY,
      -1e30,
      -100,
      0,
      100,
      Number.POSITIVE_INFINITY,
      Number.NaN,
    )
    const exp = apply('exp', x)
    expect(Array.from(exp.subarray(0, 4))).toEqual([0, 0, 0, 1])
    expect(exp[4]).toBeGreaterThan(2e38)
    expect(exp[6]).toBeNaN()
    expect(Array.from(apply('tanh', x))).toEqual([-1, -1, -1, 0, 1, 1, Number.NaN])
    const activations = ['silu', 'gelu', 'geluTanh'] as const
    for (const name of activations) {
      const y = apply(name, x)
      expect(Math.abs(y[2]!)).toBeLessThan(1e-30)
      expect(y[3]).toBe(0)
      expect(y[4]).toBe(100)
      expect(y[6]).toBeNaN()
    }
  })
})
