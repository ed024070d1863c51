import { afterEach, describe, expect, it } from 'vitest'
import {
  addon,
  type NativeHessian,
  type NativeTensor,
  type Quantizer,
  run,
} from '../../../lib/native/addon.js'
import { dequantizeParts, unpack } from '../../support/packed.js'
import { normals, uniform } from '../../support/random.js'

const native = addon()
const best = native.instructionSet()
afterEach(() => native.setInstructionSet(best))

const MOST_BITS = 8
const isDead = (j: number) => j % 10 === 6

/** Of two sequences: 2/N is 1. */
async function randomHessian(cols: number): Promise<NativeHessian> {
  const hessian = new native.Hessian(cols, 0)
  const x = normals(cols, 2 * cols * cols).map((value, i) =>
    isDead(i % cols) ? 0 : value * (1 + (i % cols) / 10),
  )
  await run(hessian.add(native.tensorFrom(x, 'F32', [2 * cols, cols]), 2, 2))
  return hessian
}

/** Rows of zeros and constant rows among others. */
const weights = (rows: number, cols: number) =>
  normals(rows, rows * cols).map((value, i) => [0, 0.25][(Math.floor(i / cols) % 6) - 3] ?? value)

/**
 * L_b a(g, b) / Σ a(g, b), a = Σ_o rows_o Σ_j e²/U_jj² and L_b = Σ_o rows_o (W − Q)(H + λI)(W − Q)ᵀ with GPTQ's Q, in
 * float64; e and Q by the native quantizer, which has tests of its own.
 */
async function reference(
  w: Float32Array,
  hessian: NativeHessian,
  costs: Float64Array,
  groupSize: number,
  quantizer: Quantizer,
): Promise<Float64Array> {
  const cols = hessian.size
  const h = hessian.matrix()
  const { upper, damping } = await run(native.inverseFactor(h, 'gptq', 2))
  const u = upper.toFloat32Array()
  const damped = Float64Array.from(h.toFloat32Array())
  for (let j = 0; j < cols; j++) if (isDead(j)) damped[j * cols + j] = 1
  const diagonalOf = (a: Float64Array) => Array.from({ length: cols }, (_, j) => a[j * cols + j]!)
  const mean = diagonalOf(damped).reduce((a, b) => a + b, 0) / cols
  for (let j = 0; j < cols; j++) damped[j * cols + j]! += damping * mean
  // On the diagonal alone GPTQ feeds nothing back: every group is quantized as it stands, weighed by the diagonal.
  const diagonal = h.toFloat32Array().map((value, i) => (i % (cols + 1) === 0 ? value : 0))
  const [weight, matrix] = [
    native.tensorFrom(w, 'F32', [costs.length, cols]),
    native.tensorFrom(diagonal, 'F32', [cols, cols]),
  ]
  const groups = Math.ceil(cols / groupSize)
  const errors = new Float64Array(groups * MOST_BITS)
  let ratio = 1
  for (let bits = 1; bits <= MOST_BITS; bits++) {
    const groupBits = new Uint8Array(groups).fill(bits)
    const quantized = async (hessianMatrix: NativeTensor) =>
      dequantizeParts(
        unpack(await run(native.gptq(weight, hessianMatrix, groupBits, { groupSize, quantizer }, 2))),
      )
    const q = await quantized(matrix)
    q.forEach((value, i) => {
      const [row, j] = [Math.floor(i / cols), i % cols]
      const error = (isDead(j) ? 0 : w[i]!) - value
      const at = Math.floor(j / groupSize) * MOST_BITS + bits - 1
      errors[at]! += (costs[row]! * error ** 2) / u[j * cols + j]! ** 2
    })
    const ofWidth = (_: number, i: number) => i % MOST_BITS === bits - 1
    if (bits <= 3) {
      const difference = (await quantized(h)).map((value, i) => (isDead(i % cols) ? 0 : w[i]!) - value)
      const loss = costs.reduce(
        (sum, cost, row) =>
          sum + cost * quadraticForm(difference.slice(row * cols, (row + 1) * cols), damped),
        0,
      )
      ratio = loss / errors.filter(ofWidth).reduce((a, b) => a + b, 0)
    }
    errors.forEach((error, i) => {
      if (ofWidth(error, i)) errors[i] = error * ratio
    })
  }
  return errors
}

/** d A dᵀ */
function quadraticForm(d: ArrayLike<number>, a: Float64Array): number {
  let sum = 0
  for (let i = 0; i < d.length; i++)
    for (let j = 0; j < d.length; j++) sum += d[i]! * a[i * d.length + j]! * d[j]!
  return sum
}

const shapes = [
  [1, 12, 12],
  [5, 33, 8],
  [37, 83, 24],
  [16, 64, 64],
] as const

describe.each(native.instructionSets())('groupErrors with %s', (set) => {
  it.each(shapes.flatMap((shape) => (['minmax', 'sqc', 'wide'] as const).map((q) => [...shape, q] as const)))(
    '%i × %i, groups of %i, %s',
    async (rows, cols, groupSize, quantizer) => {
      native.setInstructionSet(set)
      const w = weights(rows, cols)
      const hessian = await randomHessian(cols)
      const costs = Float64Array.from({ length: rows }, uniform(3))
      const expected = await reference(w, hessian, costs, groupSize, quantizer)
      const weight = native.tensorFrom(w, 'F32', [rows, cols])
      const options = { groupSize, quantizer, mostBits: MOST_BITS }
      const errors = await run(native.groupErrors(weight, hessian, costs, options, 2))
      expect(errors.length).toBe(expected.length)
      errors.forEach((error, i) => void expect(Math.abs(error / expected[i]! - 1)).toBeLessThan(1e-4))
      expect(await run(native.groupErrors(weight, hessian, costs, options, 1))).toEqual(errors)
      const three = await run(native.groupErrors(weight, hessian, costs, { ...options, mostBits: 3 }, 2))
      three.forEach((error, i) => {
        expect(error).toBe(errors[Math.floor(i / 3) * MOST_BITS + (i % 3)])
      })
    },
  )
})

describe('groupErrors refuses', async () => {
  const hessian = await randomHessian(20)
  const weight = native.tensorFrom(normals(1, 4 * 20), 'F32', [4, 20])
  const options = { groupSize: 10, quantizer: 'wide', mostBits: 8 } as const
  const attempt = async (change: object, costs = 4, given: NativeHessian = hessian) =>
    run(native.groupErrors(weight, given, new Float64Array(costs), { ...options, ...change }, 1))

  it.each([
    [{ groupSize: 21 }, 'SLIM_GROUP_SIZE', 'groupSize'],
    [{ mostBits: 9 }, 'SLIM_INVALID_ARGUMENT', 'options.mostBits'],
    [{ quantizer: 'best' }, 'SLIM_INVALID_ARGUMENT', 'options.quantizer'],
  ])('%o', async (change, code, parameter) => {
    await expect(attempt(change)).rejects.toMatchObject({ code, parameter })
  })

  it('costs of other rows, a Hessian of other channels, and one without inputs', async () => {
    await expect(attempt({}, 5)).rejects.toMatchObject({ parameter: 'rows' })
    for (const given of [await randomHessian(12), await randomHessian(40), new native.Hessian(20, 0)])
      await expect(attempt({}, 4, given)).rejects.toMatchObject({
        code: 'SLIM_INVALID_ARGUMENT',
        parameter: 'hessian',
      })
  })
})
