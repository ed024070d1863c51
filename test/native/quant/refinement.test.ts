import { afterEach, describe, expect, it } from 'vitest'
import { addon, type NativeHessian, type QuantizeLinearOptions, run } from '../../../lib/native/addon.js'
import { dequantizeParts, unpack } from '../../support/packed.js'
import { normals, uniform } from '../../support/random.js'
import { objectiveOf, refineSweep } from '../../support/refinement.js'

const native = addon()
const best = native.instructionSet()
afterEach(() => native.setInstructionSet(best))

interface Layer {
  w: Float32Array
  hessian: NativeHessian
  /** Of the objective, float64: Σ XᵀX with GPTQ's λ. */
  h: Float64Array
  options: QuantizeLinearOptions
}

/** A layer with correlated inputs; every eleventh channel is dead if `dead`. Two sequences: 2/N is 1. */
async function layer(
  rows: number,
  cols: number,
  groupSize: number,
  widths: readonly number[],
  { seed = rows, dead = false } = {},
): Promise<Layer> {
  const tokens = 2 * cols
  const isDead = (j: number) => dead && j % 11 === 3
  const x = normals(seed + 1, tokens * cols)
  for (let t = 0; t < tokens; t++)
    for (let j = 1; j < cols; j++) x[t * cols + j] = 0.8 * x[t * cols + j - 1]! + 0.6 * x[t * cols + j]!
  x.forEach((_, i) => {
    if (isDead(i % cols)) x[i] = 0
  })
  const hessian = new native.Hessian(cols, 0)
  await run(hessian.add(native.tensorFrom(x, 'F32', [tokens, cols]), 2, 2))
  const h = Float64Array.from(hessian.matrix().toFloat32Array())
  let mean = 0
  for (let j = 0; j < cols; j++) mean += (isDead(j) ? 1 : h[j * cols + j]!) / cols
  for (let j = 0; j < cols; j++) h[j * cols + j]! += 0.01 * mean
  const w = normals(seed, rows * cols).map((value, i) => {
    if (isDead(i % cols)) return 0
    const kind = Math.floor(i / cols) % 9
    return kind === 4 ? 0 : kind === 5 ? 0.25 : value
  })
  const groupBits = Uint8Array.from(
    { length: Math.ceil(cols / groupSize) },
    (_, g) => widths[g % widths.length]!,
  )
  const options = {
    bits: 2,
    groupSize,
    allocation: groupBits,
    quantizer: 'wide',
    compensation: 'gptq',
  } as const
  return { w, hessian, h, options }
}

async function quantized({ w, hessian, options }: Layer, sweeps: number, threads = 2) {
  const weight = native.tensorFrom(w, 'F32', [w.length / hessian.size, hessian.size])
  const result = await run(native.quantizeLinear(weight, hessian, { ...options, sweeps }, threads))
  expect(result.damping).toBe(0.01)
  return { parts: unpack(result.packed), objective: [...result.objective], packed: result.packed }
}

const recomputed = ({ w, h, hessian }: Layer, parts: ReturnType<typeof unpack>) =>
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
