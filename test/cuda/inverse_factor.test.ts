/** The inverse factor on the emulated device against the CPU's and against float64. */
import { afterAll, describe, expect, it } from 'vitest'
import { addon, run } from '../../lib/native/addon.js'
import { type EmulatedDevice, hasEmulator, openEmulated } from '../support/cuda.js'
import { hessianOf, inverseFactorOf, relativeDifference } from '../support/linear.js'
import { normals } from '../support/random.js'

const native = addon()
const skip = !hasEmulator()
const emulated: EmulatedDevice | null = skip ? null : openEmulated()
afterAll(() => emulated?.close())

const tensorOf = (h: Float32Array, n: number) => native.tensorFrom(h, 'F32', [n, n])
/** A float32 Hessian of 2n tokens, `dead` channels being zero. */
function randomHessian(n: number, dead: number[] = []) {
  const x = normals(n, 2 * n * n)
  for (let t = 0; t < 2 * n; t++) for (const j of dead) x[t * n + j] = 0
  return Float32Array.from(hessianOf(x, n, 2))
}

async function factors(h: Float32Array, n: number, damping: 'salience' | 'gptq' = 'gptq', most = 1e-5) {
  const onDevice = await run(emulated!.device.inverseFactor(tensorOf(h, n), damping))
  const onCpu = await run(native.inverseFactor(tensorOf(h, n), damping, 1))
  expect(onDevice.damping).toBe(onCpu.damping)
  expect(onDevice.dead).toEqual(onCpu.dead)
  const values = onDevice.upper.toFloat32Array()
  for (let i = 0; i < n; i++) for (let j = 0; j < i; j++) expect(values[i * n + j]).toBe(0)
  expect(relativeDifference(values, onCpu.upper.toFloat32Array())).toBeLessThan(most)
  return { ...onDevice, values }
}

describe.skipIf(skip)('inverseFactor on the emulated device', () => {
  for (const n of [1, 2, 5, 63, 64, 65, 130, 197])
    it(`agrees with the CPU and float64 for ${n} channels`, async () => {
      const h = randomHessian(n)
      const { values, damping } = await factors(h, n)
      expect(damping).toBe(0.01)
      const damped = Float64Array.from(h)
      const mean = h.reduce((sum, value, i) => (i % (n + 1) === 0 ? sum + value / n : sum), 0)
      for (let j = 0; j < n; j++) damped[j * n + j]! += 0.01 * mean
      expect(relativeDifference(values, inverseFactorOf(damped, n))).toBeLessThan(1e-5)
    })

  it('damps by 0.01 for the salience', async () => {
    const n = 70
    await factors(
      randomHessian(n).map((value) => value / 100),
      n,
      'salience',
    )
  })

  it('takes H_jj = 1 for dead channels', async () => {
    const { dead, values } = await factors(randomHessian(100, [0, 41, 99]), 100, 'salience')
    expect([...dead.keys()].filter((j) => dead[j])).toEqual([0, 41, 99])
    expect(values[41 * 100 + 41]).toBeCloseTo(1 / Math.sqrt(1.01), 6)
  })

  it('copes with far fewer tokens than channels', async () => {
    const n = 150
    // Either is 1e-5 to 2e-5 away from float64.
    await factors(Float32Array.from(hessianOf(normals(3, 10 * n), n, 1)), n, 'gptq', 1e-4)
  })

  it('grows the damping tenfold as the CPU does', async () => {
    const n = 80
    const identity = Float32Array.from({ length: n * n }, (_, i) => Number(i % (n + 1) === 0))
    for (const [value, damping] of [
      [1.05, 0.1],
      [1.5, 1],
    ] as const) {
      const h = identity.slice()
      h[1] = h[n] = value
      expect((await factors(h, n)).damping).toBeCloseTo(damping, 12)
    }
  })

  for (const [what, row, column, value] of [
    ['indefinite', 3, 70, 5],
    ['indefinite in its last block', 77, 78, 5],
    ['NaN off the diagonal', 3, 70, Number.NaN],
    ['infinite off the diagonal', 70, 75, Number.POSITIVE_INFINITY],
    ['NaN on the diagonal', 7, 7, Number.NaN],
  ] as const)
    it(`refuses a Hessian that is ${what}`, async () => {
      const n = 80
      const h = Float32Array.from({ length: n * n }, (_, i) => Number(i % (n + 1) === 0))
      h[row * n + column] = h[column * n + row] = value
      const errorOf = (step: Promise<unknown>) => step.then(() => null).catch((error) => error)
      const onDevice = await errorOf(run(emulated!.device.inverseFactor(tensorOf(h, n), 'gptq')))
      expect(onDevice).toMatchObject({ code: 'SLIM_NOT_POSITIVE_DEFINITE', parameter: 'hessian' })
      const onCpu = await errorOf(run(native.inverseFactor(tensorOf(h, n), 'gptq', 1)))
      expect(onDevice.message).toBe(onCpu.message)
    })

  it('names what came in place of a square matrix', () => {
    const h = native.tensorFrom(new Float32Array(6), 'F32', [2, 3])
    expect(() => emulated!.device.inverseFactor(h, 'gptq')).toThrow(/hessian/)
  })
})
