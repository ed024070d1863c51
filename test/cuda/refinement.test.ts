/** The refinement on the emulated device against float64 by plain loops, from the same codes on. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { addon, run } from '../../lib/native/addon.js'
import { type EmulatedDevice, hasEmulator, openEmulated } from '../support/cuda.js'
import { dequantizeParts, unpack } from '../support/packed.js'
import { uniform } from '../support/random.js'
import { layerMaker, objectiveOf, type RefinedLayer, refineSweep } from '../support/refinement.js'

const skip = !hasEmulator()
const native = addon()
let emulated: EmulatedDevice
beforeAll(() => {
  if (!skip) emulated = openEmulated()
})
afterAll(() => emulated?.close())

const layer = layerMaker((cols) => emulated.device.hessian(cols, 0))

async function quantized({ w, hessian, options }: RefinedLayer, sweeps: number) {
  const weight = native.tensorFrom(w, 'F32', [w.length / hessian.size, hessian.size])
  const result = await run(emulated.device.quantizeLinear(weight, hessian, { ...options, sweeps }, 1))
  return { parts: unpack(result.packed), objective: [...result.objective] }
}

const recomputed = ({ w, h, hessian }: RefinedLayer, parts: ReturnType<typeof unpack>) =>
  objectiveOf(w, dequantizeParts(parts), h, hessian.size)

const share = (a: ArrayLike<number>, b: ArrayLike<number>, scale: number) =>
  Array.from(a).filter((value, i) => Math.abs(value - b[i]!) <= scale * Math.abs(b[i]!)).length / a.length

describe.skipIf(skip)('the refinement on the emulated device', () => {
  describe.each([
    [1, 20, 20, [2], false],
    [5, 33, 8, [2, 3], false],
    [37, 120, 24, [1, 2, 3, 4], true],
    [16, 130, 64, [4], false],
    [20, 96, 32, [1], false],
    // The gradient of columns out of a batch of 512 follows at its end.
    [3, 530, 100, [2, 4, 8], true],
    [3, 150, 128, [1, 3], false],
    [7, 200, 150, [1, 2], false],
    [2, 260, 256, [3], true],
  ] as [number, number, number, number[], boolean][])(
    '%i × %i, groups of %i, widths %j, dead channels %s',
    (rows, cols, groupSize, widths, dead) => {
      it('does what float64 does, and reports the objective of what it packs', async () => {
        const given = await layer(rows, cols, groupSize, widths, { dead })
        const { parts: start } = await quantized(given, 0)
        const { parts, objective } = await quantized(given, 1)
        const expected = refineSweep(given.w, given.h, start)
        // Where float32 sees another nearest grid point, what comes after in the row is another path to the same end.
        expect(share(parts.codes, expected.codes, 0)).toBeGreaterThan(0.99)
        expect(share(parts.scales, expected.scales, 1e-3)).toBeGreaterThan(0.98)
        const reference = recomputed(given, expected)
        expect(Math.abs(recomputed(given, parts) / reference - 1)).toBeLessThan(1e-3)
        expect(reference).toBeLessThan(recomputed(given, start))
        expect(objective.length).toBe(2)
        expect(Math.abs(objective[0]! / recomputed(given, start) - 1)).toBeLessThan(1e-4)
        expect(Math.abs(objective[1]! / recomputed(given, parts) - 1)).toBeLessThan(1e-4)
      })
    },
  )

  it('never raises the objective, whatever the layer', async () => {
    const random = uniform(7)
    const upTo = (most: number) => 1 + Math.floor(random() * most)
    for (let seed = 0; seed < 12; seed++) {
      const cols = 1 + upTo(70)
      const widths = Array.from({ length: upTo(4) }, () => upTo(4))
      const shape = { seed: 100 + seed, dead: seed % 2 === 1 }
      const given = await layer(upTo(40), cols, upTo(cols), widths, shape)
      const { objective, parts } = await quantized(given, 6)
      objective.reduce((before, after) => {
        expect(after, `case ${seed}: ${objective}`).toBeLessThanOrEqual(before * (1 + 1e-6))
        return after
      })
      const start = recomputed(given, (await quantized(given, 0)).parts)
      expect(recomputed(given, parts), `case ${seed}`).toBeLessThanOrEqual(start * (1 + 1e-6))
    }
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
})
