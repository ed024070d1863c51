import { describe, expect, it } from 'vitest'
import { addon, type NativeTensor, run } from '../../../lib/native/addon.js'
import { dequantizeParts, unpack } from '../../support/packed.js'
import { normals } from '../../support/random.js'
import { quantizeValue } from '../../support/reference.js'

const native = addon()

/** Inputs whose channels are correlated: compensation has something to use. */
function correlatedInputs(tokens: number, cols: number): Float32Array {
  const x = normals(cols, tokens * cols)
  for (let t = 0; t < tokens; t++)
    for (let j = 1; j < cols; j++) x[t * cols + j] = 0.8 * x[t * cols + j - 1]! + 0.6 * x[t * cols + j]!
  return x
}

/** Their Hessian. */
async function randomHessian(x: Float32Array, cols: number): Promise<NativeTensor> {
  const hessian = new native.Hessian(cols, 0)
  await run(hessian.add(native.tensorFrom(x, 'F32', [x.length / cols, cols]), 1, 2))
  return hessian.matrix()
}

function outputError(w: ArrayLike<number>, q: ArrayLike<number>, h: ArrayLike<number>, cols: number): number {
  let sum = 0
  const d = Float64Array.from(q, (value, i) => w[i]! - value)
  for (let r = 0; r < d.length; r += cols)
    for (let i = 0; i < cols; i++)
      for (let j = 0; j < cols; j++) sum += d[r + i]! * h[i * cols + j]! * d[r + j]!
  return sum
}

/** GPTQ column by column in float64, with the scales and zero points that the native code chose. */
function reference(w: Float32Array, u: Float32Array, parts: ReturnType<typeof unpack>) {
  const { rows, cols, groupSize, groupBits, scales, offsets } = parts
  const work = Float64Array.from(w)
  const q = new Float64Array(w.length)
  for (let j = 0; j < cols; j++) {
    const g = Math.floor(j / groupSize)
    for (let r = 0; r < rows; r++) {
      const fit = { scale: scales[g * rows + r]!, offset: offsets[g * rows + r]! }
      const at = r * cols
      q[at + j] = quantizeValue(work[at + j]!, groupBits[g]!, fit).value
      const error = (work[at + j]! - q[at + j]!) / u[j * cols + j]!
      for (let i = j + 1; i < cols; i++) work[at + i]! -= error * u[j * cols + i]!
    }
  }
  return q
}

const shapes: [number, number, number, number[]][] = [
  [1, 20, 20, [2]],
  [5, 33, 8, [2, 3]],
  [37, 200, 24, [1, 2, 3, 4]],
  [16, 130, 64, [8]],
  [3, 1100, 100, [2, 4, 8]],
  [2, 700, 600, [3]],
]

describe('gptq', () => {
  describe.each(['minmax', 'sqc'] as const)('%s', (quantizer) => {
    it.each(shapes)('%i × %i, groups of %i, widths %j', async (rows, cols, groupSize, widths) => {
      const w = normals(rows, rows * cols)
      const hessian = await randomHessian(correlatedInputs(2 * cols, cols), cols)
      const h = hessian.toFloat32Array()
      const groupBits = Uint8Array.from(
        { length: Math.ceil(cols / groupSize) },
        (_, g) => widths[g % widths.length]!,
      )
      const weight = native.tensorFrom(w, 'F32', [rows, cols])
      const packed = await run(native.gptq(weight, hessian, groupBits, { groupSize, quantizer }, 2))
      const parts = unpack(packed)
      const q = dequantizeParts(parts)
      const u = (await run(native.inverseFactor(hessian, 'gptq', 2))).upper.toFloat32Array()
      const expected = reference(w, u, parts)
      // A weight that float32 puts on the other side of a rounding boundary changes all columns after it in its row.
      let agree = 0
      for (let i = 0; i < q.length; i++)
        if (Math.abs(q[i]! - expected[i]!) < 1e-5 * (1 + Math.abs(q[i]!))) agree++
      expect(agree / q.length).toBeGreaterThan(0.9)
      const [error, expectedError] = [q, expected].map((values) => outputError(w, values, h, cols)) as [
        number,
        number,
      ]
      expect(Math.abs(error / expectedError - 1)).toBeLessThan(0.02)
      const plain = await run(native.fitGroups(weight, groupBits, { groupSize, quantizer }, 2))
      expect(error).toBeLessThan(outputError(w, dequantizeParts(unpack(plain)), h, cols))
    })
  })

  it('changes nothing for channels that do not meet: a diagonal Hessian gives round to nearest', async () => {
    const [rows, cols, groupSize] = [21, 90, 32]
    const weight = native.tensorFrom(normals(4, rows * cols), 'F32', [rows, cols])
    const h = new Float32Array(cols * cols)
    for (let j = 0; j < cols; j++) h[j * cols + j] = 1 + (j % 5)
    const groupBits = new Uint8Array([2, 1, 4])
    const options = { groupSize, quantizer: 'sqc' } as const
    const compensated = await run(
      native.gptq(weight, native.tensorFrom(h, 'F32', [cols, cols]), groupBits, options, 2),
    )
    expect(unpack(compensated)).toEqual(unpack(await run(native.fitGroups(weight, groupBits, options, 2))))
  })

  it('zeroes dead channels before it fits the ranges', async () => {
    const [rows, cols] = [6, 32]
    const x = correlatedInputs(64, cols)
    for (let t = 0; t < 64; t++) x[t * cols + 9] = 0
    const w = normals(4, rows * cols)
    for (let r = 0; r < rows; r++) w[r * cols + 9] = 1e4
    const hessian = await randomHessian(x, cols)
    const weight = native.tensorFrom(w, 'F32', [rows, cols])
    const packed = await run(
      native.gptq(weight, hessian, new Uint8Array([3]), { groupSize: 32, quantizer: 'minmax' }, 2),
    )
    const q = dequantizeParts(unpack(packed))
    for (let r = 0; r < rows; r++) expect(q[r * cols + 9]).toBe(0)
    expect(Math.max(...q.map(Math.abs))).toBeLessThan(100)
  })
})
