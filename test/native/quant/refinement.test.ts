import { afterEach, describe, expect, it } from 'vitest'
import { addon, run } from '../../../lib/native/addon.js'
import { dequantizeParts, unpack } from '../../support/packed.js'
import { uniform } from '../../support/random.js'
import { layerMaker, objectiveOf, type RefinedLayer, refineSweep } from '../../support/refinement.js'

const native = addon()
const best = native.instructionSet()
afterEach(() => native.setInstructionSet(best))

const layer = layerMaker((cols) => new native.Hessian(cols, 0))

async function quantized({ w, hessian, options }: RefinedLayer, sweeps: number, threads = 2) {
  const weight = native.tensorFrom(w, 'F32', [w.length / hessian.size, hessian.size])
  const result = await run(native.quantizeLinear(weight, hessian, { ...options, sweeps }, threads))
  expect(result.damping).toBe(0.01)
  return { parts: unpack(result.packed), objective: [...result.objective], packed: result.packed }
}

const recomputed = ({ w, h, hessian }: RefinedLayer, parts: ReturnType<typeof unpack>) =>
  objectiveOf(w, dequantizeParts(parts), h, hessian.size)

const shapes: [number, number, number, number[], boolean][] = [
  [1, 20, 20, [2], false],
  [5, 33, 8, [2, 3], false],
  [37, 200, 24, [1, 2, 3, 4], true],
  [16, 130, 64, [4], false],
  [20, 96, 32, [1], false],
  [3, 600, 100, [2, 4, 8], true],
  [2, 300, 260, [3], false],
]

describe.each(native.instructionSets())('the refinement with %s', (set) => {
  describe.each(shapes)('%i × %i, groups of %i, widths %j, dead channels %s', (...shape) => {
    const [rows, cols, groupSize, widths, dead] = shape
    const made = () => layer(rows, cols, groupSize, widths, { dead })

    it('reports the objective of what it packs, which no sweep raises', async () => {
      native.setInstructionSet(set)
      const given = await made()
      let before = Number.POSITIVE_INFINITY
      let reported: number[] = []
      for (let sweeps = 0; sweeps <= 4; sweeps++) {
        const { parts, objective } = await quantized(given, sweeps)
        const expected = recomputed(given, parts)
        if (sweeps > 0) expect(Math.abs(objective.at(-1)! / expected - 1)).toBeLessThan(1e-4)
        // Float32 gradients: a step may be taken for one that gains the last bits of the sum.
        expect(expected).toBeLessThanOrEqual(before * (1 + 1e-6))
        expect(objective.slice(0, reported.length)).toEqual(reported)
        expect(objective.length).toBeLessThanOrEqual(sweeps + 1)
        before = expected
        reported = objective
      }
      expect(reported.length).toBeGreaterThan(1)
      expect(reported.at(-1)!).toBeLessThan(reported[0]!)
    })

    it('does what float64 does', async () => {
      native.setInstructionSet(set)
      const given = await made()
      const { parts: start } = await quantized(given, 0)
      const { parts } = await quantized(given, 1)
      const expected = refineSweep(given.w, given.h, start)
      // Where float32 sees another nearest grid point, what comes after in the row is another path to the same end.
      const share = (a: ArrayLike<number>, b: ArrayLike<number>, scale: number) =>
        Array.from(a).filter((value, i) => Math.abs(value - b[i]!) <= scale * Math.abs(b[i]!)).length /
        a.length
      expect(share(parts.codes, expected.codes, 0)).toBeGreaterThan(0.97)
      expect(share(parts.scales, expected.scales, 1e-3)).toBeGreaterThan(0.95)
      const [objective, reference] = [recomputed(given, parts), recomputed(given, expected)]
      expect(Math.abs(objective / reference - 1)).toBeLessThan(0.01)
      expect(reference).toBeLessThan(recomputed(given, start))
    })
  })

  it('never raises the objective, whatever the layer', async () => {
    native.setInstructionSet(set)
    const random = uniform(7)
    const upTo = (most: number) => 1 + Math.floor(random() * most)
    for (let seed = 0; seed < 40; seed++) {
      const cols = 1 + upTo(70)
      const widths = Array.from({ length: upTo(4) }, () => upTo(4))
      const given = await layer(upTo(40), cols, upTo(cols), widths, {
        seed: 100 + seed,
        dead: seed % 2 === 1,
      })
      const { objective, parts } = await quantized(given, 6)
      objective.reduce((before, after) => {
        expect(after, `case ${seed}: ${objective}`).toBeLessThanOrEqual(before * (1 + 1e-6))
        return after
      })
      const start = recomputed(given, (await quantized(given, 0)).parts)
      expect(recomputed(given, parts), `case ${seed}`).toBeLessThanOrEqual(start * (1 + 1e-6))
    }
  })
})

describe('the refinement', () => {
  it('gives the same bytes with one thread and two', async () => {
    const given = await layer(75, 300, 64, [1, 2, 3, 4], { dead: true })
    const [one, two] = [await quantized(given, 4, 1), await quantized(given, 4, 2)]
    for (const part of ['qweight', 'groupBits', 'scales', 'qzeros'] as const)
      expect(two.packed[part]().toBytes()).toEqual(one.packed[part]().toBytes())
    expect(two.objective).toEqual(one.objective)
  })

  it('keeps zeros and dead channels at zero, and widths and zero points as they were', async () => {
    const given = await layer(9, 44, 22, [2, 3], { dead: true })
    const [{ parts: start }, { parts }] = [await quantized(given, 0), await quantized(given, 4)]
    const q = dequantizeParts(parts)
    for (let j = 0; j < 44; j++) expect(q[4 * 44 + j]).toBe(0)
    expect(parts.groupBits).toEqual(start.groupBits)
    expect(parts.offsets).toEqual(start.offsets)
    expect(parts.scales.every((scale) => scale > 0)).toBe(true)
  })

  it('needs compensation, whose damping it shares', async () => {
    const { w, hessian, options } = await layer(2, 40, 20, [2])
    const weight = native.tensorFrom(w, 'F32', [2, 40])
    for (const [change, parameter] of [
      [{ sweeps: 1, compensation: 'none' }, 'options.sweeps'],
      [{ sweeps: -1 }, 'options.sweeps'],
      [{ sweeps: 1.5 }, 'options.sweeps'],
      [{ inputDriftWeight: 0.5, compensation: 'none' }, 'options.inputDriftWeight'],
      [{ inputDriftWeight: 1.1 }, 'options.inputDriftWeight'],
      [{ inputDriftWeight: -0.1 }, 'options.inputDriftWeight'],
      [{ inputDriftWeight: Number.NaN }, 'options.inputDriftWeight'],
    ] as const)
      expect(() => native.quantizeLinear(weight, hessian, { ...options, ...change }, 1)).toThrow(
        expect.objectContaining({ code: 'SLIM_INVALID_ARGUMENT', parameter }),
      )
  })
})
