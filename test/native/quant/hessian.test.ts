import { describe, expect, it } from 'vitest'
import { addon, run } from '../../../lib/native/addon.js'
import { hessianOf, relativeDifference } from '../../support/linear.js'
import { normals } from '../../support/random.js'

const native = addon()

describe('Hessian', () => {
  it.each([
    [1, 5],
    [33, 7],
    [130, 300],
  ])('is (2/N) Σ XᵀX over all adds (%i channels, %i tokens)', async (n, tokens) => {
    const x = normals(n, 2 * tokens * n)
    const hessian = new native.Hessian(n, 0)
    for (const part of [x.subarray(0, tokens * n), x.subarray(tokens * n)])
      await run(hessian.add(native.tensorFrom(part, 'F32', [tokens, n]), 3, 2))
    expect(hessian.sequences).toBe(6)
    const h = hessian.matrix()
    expect(h.shape).toEqual([n, n])
    const values = h.toFloat32Array()
    expect(relativeDifference(values, hessianOf(x, n, 6))).toBeLessThan(2e-6)
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) expect(values[i * n + j]).toBe(values[j * n + i])
    expect(hessian.samples().shape).toEqual([0, n])
  })

  it('stays symmetric when read between adds', async () => {
    const n = 50
    const x = normals(1, 60 * n)
    const hessian = new native.Hessian(n, 0)
    await run(hessian.add(native.tensorFrom(x.subarray(0, 30 * n), 'F32', [30, n]), 1, 2))
    hessian.matrix()
    await run(hessian.add(native.tensorFrom(x.subarray(30 * n), 'F32', [30, n]), 1, 2))
    expect(relativeDifference(hessian.matrix().toFloat32Array(), hessianOf(x, n, 2))).toBeLessThan(2e-6)
  })

  it('keeps every so many tokens, counted over all adds', async () => {
    const hessian = new native.Hessian(1, 4)
    let token = 0
    for (const tokens of [5, 7, 1, 2, 10]) {
      const x = Float32Array.from({ length: tokens }, () => token++)
      await run(hessian.add(native.tensorFrom(x, 'F32', [tokens, 1]), 1, 1))
    }
    expect([...hessian.samples().toFloat32Array()]).toEqual([0, 4, 8, 12, 16, 20, 24])
  })

  it('gives the same bits with one thread and two', async () => {
    const [n, tokens] = [201, 513]
    const x = native.tensorFrom(normals(2, tokens * n), 'F32', [tokens, n])
    const bytes = []
    for (const threads of [1, 2]) {
      const hessian = new native.Hessian(n, 0)
      await run(hessian.add(x, 1, threads))
      bytes.push(hessian.matrix().toBytes())
    }
    expect(bytes[1]).toEqual(bytes[0])
  })

  it('forgets its factors when inputs are added', async () => {
    const n = 48
    const parts = [1, 2].map((seed) => native.tensorFrom(normals(seed, 100 * n), 'F32', [100, n]))
    const weight = native.tensorFrom(normals(3, 20 * n), 'F32', [20, n])
    const options = {
      bits: 2,
      groupSize: 16,
      allocation: 'uniform',
      quantizer: 'sqc',
      compensation: 'gptq',
    } as const
    const bytesOf = async (hessian: InstanceType<typeof native.Hessian>) =>
      (await run(native.quantizeLinear(weight, hessian, options, 2))).packed.qweight().toBytes()
    const used = new native.Hessian(n, 1)
    await run(used.add(parts[0]!, 1, 2))
    const before = await bytesOf(used)
    await run(used.add(parts[1]!, 1, 2))
    const fresh = new native.Hessian(n, 1)
    for (const part of parts) await run(fresh.add(part, 1, 2))
    const after = await bytesOf(used)
    expect(after).toEqual(await bytesOf(fresh))
    expect(after).not.toEqual(before)
  })

  it('refuses inputs of another width, and use after disposal', async () => {
    const hessian = new native.Hessian(8, 0)
    const x = native.tensorFrom(new Float32Array(18), 'F32', [2, 9])
    expect(() => hessian.add(x, 1, 1)).toThrow(
      expect.objectContaining({ code: 'SLIM_INVALID_ARGUMENT', parameter: 'x' }),
    )
    expect(() => new native.Hessian(0, 0)).toThrow(expect.objectContaining({ code: 'SLIM_INVALID_ARGUMENT' }))
    hessian.dispose()
    hessian.dispose()
    expect(() => hessian.matrix()).toThrow(expect.objectContaining({ code: 'SLIM_DISPOSED' }))
  })
})
