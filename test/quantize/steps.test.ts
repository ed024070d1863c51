import { describe, expect, it, vi } from 'vitest'
import { allocateBits, fitGroups, gptq, groupSalience, type Matrix, PackedMatrix } from '../../lib/index.js'
import { addon, type NativeTensor } from '../../lib/native/addon.js'
import { SplitMix64 } from '../../lib/random.js'
import { rejection } from '../support/demo.js'

const random = new SplitMix64(5)
const matrix = (rows: number, cols: number, scale = 1): Matrix => ({
  rows,
  cols,
  data: Float32Array.from({ length: rows * cols }, () => (random.uniform() - 0.5) * scale),
})

describe('the layers below', () => {
  const weight = matrix(24, 160)
  const x = matrix(200, 160, 2)
  const hessian: Matrix = { rows: 160, cols: 160, data: new Float32Array(160 * 160) }
  for (let i = 0; i < 160; i++)
    for (let j = 0; j < 160; j++) {
      let sum = 0
      for (let t = 0; t < 200; t++) sum += x.data[t * 160 + i]! * x.data[t * 160 + j]!
      hessian.data[i * 160 + j] = 2 * sum
    }

  it('work together: salience, allocation, GPTQ, packed product', async () => {
    const salience = await groupSalience(weight, hessian, { groupSize: 32 })
    expect(salience).toHaveLength(5)
    const { groupBits, kl } = await allocateBits(weight, x, salience, { bits: 3, groupSize: 32 })
    expect(groupBits.reduce((sum, bits) => sum + bits, 0)).toBe(15)
    expect(kl).toHaveLength(1)
    using packed = await gptq(weight, hessian, groupBits, { groupSize: 32 })
    expect([...packed.groupBits]).toEqual([...groupBits])
    const dense = await packed.dequantize()
    const y = await packed.matmul(x, { activations: 'float32' })
    for (let t = 0; t < 200; t += 17)
      for (let r = 0; r < 24; r++) {
        let sum = 0
        for (let j = 0; j < 160; j++) sum += x.data[t * 160 + j]! * dense.data[r * 160 + j]!
        expect(y.data[t * 24 + r]).toBeCloseTo(sum, 3)
      }
    using plain = await fitGroups(weight, groupBits, { groupSize: 32 })
    const error = async (q: PackedMatrix) => {
      const a = await q.matmul(x, { activations: 'float32' })
      const b = await (await fitGroups(weight, new Uint8Array(5).fill(8), { groupSize: 32 })).matmul(x, {
        activations: 'float32',
      })
      return a.data.reduce((sum, value, i) => sum + (value - b.data[i]!) ** 2, 0)
    }
    expect(await error(packed)).toBeLessThan(await error(plain))
  })

  it('take a packed matrix apart and put it together again', async () => {
    using packed = await fitGroups(weight, Uint8Array.of(1, 2, 3, 4, 8), { groupSize: 32, quantizer: 'sqc' })
    using again = PackedMatrix.from(packed.parts())
    expect((await again.dequantize()).data).toEqual((await packed.dequantize()).data)
    const parts = packed.parts()
    expect(() => PackedMatrix.from({ ...parts, qweight: parts.qweight.slice(1) })).toThrow(/qweight/)
    expect(() => PackedMatrix.from({ ...parts, groupBits: Uint8Array.of(1, 2, 3, 4, 9) })).toThrow(
      /groupBits|group_bits/,
    )
  })

  it('refuse wrong shapes by name', async () => {
    expect(await rejection(groupSalience({ ...weight, rows: 7 }, hessian, { groupSize: 32 }))).toMatchObject({
      code: 'SLIM_INVALID_ARGUMENT',
      parameter: 'weight.data',
    })
    expect(await rejection(groupSalience(weight, matrix(8, 8), { groupSize: 32 }))).toMatchObject({
      code: 'SLIM_INVALID_ARGUMENT',
      parameter: 'hessian',
    })
    expect(await rejection(fitGroups(weight, Uint8Array.of(2), { groupSize: 32 }))).toMatchObject({
      code: 'SLIM_INVALID_ARGUMENT',
      parameter: 'groupBits',
    })
  })

  it('keep no native tensor, also when they fail', async () => {
    const made: NativeTensor[] = []
    const original = addon().tensorFrom
    const spy = vi.spyOn(addon(), 'tensorFrom').mockImplementation((...args) => {
      made.push(original(...args))
      return made.at(-1)!
    })
    try {
      const groupBits = Uint8Array.of(1, 2, 3, 4, 8)
      const salience = await groupSalience(weight, hessian, { groupSize: 32 })
      await allocateBits(weight, x, salience, { bits: 3, groupSize: 32 })
      using packed = await gptq(weight, hessian, groupBits, { groupSize: 32 })
      using fitted = await fitGroups(weight, groupBits, { groupSize: 32 })
      await packed.matmul(x, { activations: 'float32' })
      const parts = fitted.parts()
      using _again = PackedMatrix.from(parts)
      await rejection(groupSalience(weight, { ...hessian, rows: 1 }, { groupSize: 32 }))
      await rejection(fitGroups(weight, groupBits, { groupSize: 48 }))
      expect(() => PackedMatrix.from({ ...parts, qweight: parts.qweight.slice(1) })).toThrow()
    } finally {
      spy.mockRestore()
    }
    expect(made.length).toBeGreaterThan(12)
    for (const tensor of made)
      expect(() => tensor.dtype).toThrow(expect.objectContaining({ code: 'SLIM_DISPOSED' }))
  })
})
