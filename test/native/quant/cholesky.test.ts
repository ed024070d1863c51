import { afterEach, describe, expect, it } from 'vitest'
import { addon, run } from '../../../lib/native/addon.js'
import { hessianOf, inverseFactorOf, relativeDifference } from '../../support/linear.js'
import { normals } from '../../support/random.js'

const native = addon()
const best = native.instructionSet()
afterEach(() => native.setInstructionSet(best))

const tensorOf = (h: ArrayLike<number>, n: number) => native.tensorFrom(Float32Array.from(h), 'F32', [n, n])
const meanDiagonal = (h: ArrayLike<number>, n: number) =>
  Array.from({ length: n }, (_, j) => h[j * n + j]! || 1).reduce((a, b) => a + b) / n

/** A float32 Hessian of 2n tokens. */
const randomHessian = (n: number) => Float32Array.from(hessianOf(normals(n, 2 * n * n), n, 2))

describe('inverseFactor', () => {
  describe.each(native.instructionSets())('with %s', (set) => {
    it.each([1, 2, 17, 63, 64, 65, 129, 200])('agrees with float64 for %i channels', async (n) => {
      native.setInstructionSet(set)
      const h = randomHessian(n)
      const { upper, damping, dead } = await run(native.inverseFactor(tensorOf(h, n), 'gptq', 2))
      expect(damping).toBe(0.01)
      expect(dead).toEqual(new Uint8Array(n))
      const damped = Float64Array.from(h)
      for (let j = 0; j < n; j++) damped[j * n + j]! += 0.01 * meanDiagonal(h, n)
      expect(relativeDifference(upper.toFloat32Array(), inverseFactorOf(damped, n))).toBeLessThan(1e-5)
    })
  })

  it('damps by 0.01 for the salience', async () => {
    const n = 70
    const h = randomHessian(n).map((value) => value / 100)
    const { upper, damping } = await run(native.inverseFactor(tensorOf(h, n), 'salience', 2))
    expect(damping * meanDiagonal(h, n)).toBeCloseTo(0.01, 9)
    const damped = Float64Array.from(h)
    for (let j = 0; j < n; j++) damped[j * n + j]! += 0.01
    expect(relativeDifference(upper.toFloat32Array(), inverseFactorOf(damped, n))).toBeLessThan(1e-5)
  })

  it('copes with a Hessian of far fewer tokens than channels', async () => {
    const n = 150
    const h = Float32Array.from(hessianOf(normals(3, 10 * n), n, 1))
    const { upper, damping } = await run(native.inverseFactor(tensorOf(h, n), 'gptq', 2))
    expect(damping).toBe(0.01)
    const damped = Float64Array.from(h)
    for (let j = 0; j < n; j++) damped[j * n + j]! += 0.01 * meanDiagonal(h, n)
    expect(relativeDifference(upper.toFloat32Array(), inverseFactorOf(damped, n))).toBeLessThan(1e-3)
  })

  it('grows the damping tenfold when the Hessian is not positive definite, and says so', async () => {
    const n = 80
    const h = new Float32Array(n * n)
    for (let j = 0; j < n; j++) h[j * n + j] = 1
    h[0 * n + 1] = h[1 * n + 0] = 1.05 // eigenvalue −0.05
    expect((await run(native.inverseFactor(tensorOf(h, n), 'gptq', 2))).damping).toBeCloseTo(0.1, 12)
    h[0 * n + 1] = h[1 * n + 0] = 1.5 // eigenvalue −0.5
    const { damping, upper } = await run(native.inverseFactor(tensorOf(h, n), 'gptq', 2))
    expect(damping).toBeCloseTo(1, 12)
    expect(upper.toFloat32Array().every(Number.isFinite)).toBe(true)
  })

  it.each([
    ['indefinite beyond the limit', 5],
    ['NaN off the diagonal', Number.NaN],
  ])('refuses a Hessian that is %s', async (_, value) => {
    const n = 80
    const h = new Float32Array(n * n)
    for (let j = 0; j < n; j++) h[j * n + j] = 1
    h[3 * n + 70] = h[70 * n + 3] = value
    for (const damping of ['gptq', 'salience'] as const)
      await expect(run(native.inverseFactor(tensorOf(h, n), damping, 2))).rejects.toMatchObject({
        code: 'SLIM_NOT_POSITIVE_DEFINITE',
        parameter: 'hessian',
      })
  })

  it('refuses a diagonal with NaN', async () => {
    const h = new Float32Array([1, 0, 0, Number.NaN])
    await expect(run(native.inverseFactor(tensorOf(h, 2), 'gptq', 1))).rejects.toMatchObject({
      code: 'SLIM_NOT_POSITIVE_DEFINITE',
    })
  })

  it('names dead channels and takes H_jj = 1 for them', async () => {
    const n = 40
    const x = normals(5, 100 * n)
    for (let t = 0; t < 100; t++) x[t * n + 7] = x[t * n + 33] = 0
    const h = Float32Array.from(hessianOf(x, n, 1))
    const { upper, dead } = await run(native.inverseFactor(tensorOf(h, n), 'salience', 2))
    expect([...dead.keys()].filter((j) => dead[j])).toEqual([7, 33])
    expect(upper.toFloat32Array()[7 * n + 7]).toBeCloseTo(1 / Math.sqrt(1.01), 6)
  })

  it('gives the same bits with one thread and two', async () => {
    const n = 333
    const h = tensorOf(randomHessian(n), n)
    const [one, two] = await Promise.all(
      [1, 2].map((threads) => run(native.inverseFactor(h, 'gptq', threads))),
    )
    expect(two!.upper.toBytes()).toEqual(one!.upper.toBytes())
  })
})
