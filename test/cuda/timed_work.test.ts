/** What the GPU benchmark times, on the emulated driver, which has no time; cuBLAS is a double of it. */
import { execFileSync } from 'node:child_process'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { addon, packageRoot, run } from '../../lib/native/addon.js'
import { hasEmulator, openEmulated } from '../support/cuda.js'
import { randomParts, tensorsOf, toHalf } from '../support/packed.js'
import { normals } from '../support/random.js'
import { temporaryFolder } from '../support/temporary.js'

const skip = !hasEmulator()
const folder = temporaryFolder()
const emulated = skip ? null : openEmulated()
afterAll(() => emulated?.close())
const native = addon()

function buildDouble(): string {
  const library = path.join(folder, 'cublas_double.so')
  const source = path.join(packageRoot(), 'test', 'cuda', 'cublas_double.c')
  execFileSync(process.env.CC ?? 'cc', ['-shared', '-fPIC', '-O1', source, '-o', library, '-ldl'])
  return library
}

/** Float16 [rows, cols]: the tensor, and the values that it stands for. */
async function halves(seed: number, rows: number, cols: number) {
  const { bits, values } = await toHalf(normals(seed, rows * cols))
  return { tensor: native.tensorFrom(bits, 'F16', [rows, cols]), values }
}

function largestError(y: Float32Array, x: Float32Array, w: Float32Array, cols: number): number {
  const rows = w.length / cols
  return y.reduce((largest, value, at) => {
    const [token, row] = [Math.floor(at / rows), at % rows]
    let exact = 0
    for (let c = 0; c < cols; c++) exact += x[token * cols + c]! * w[row * cols + c]!
    return Math.max(largest, Math.abs(value - exact))
  }, 0)
}

describe.skipIf(skip)('timed work on the emulated driver', () => {
  const { device } = emulated ?? {}
  const timedWork = () => new native.CudaTimedWork(device!)

  it('repeats packed products of several matrices in one launch of a graph', async () => {
    const packed = new native.PackedMatrix(
      await tensorsOf(await randomParts(40, 256, 128, Uint8Array.of(2, 3))),
    )
    const matrices = [await run(device!.packedMatrix(packed, 1)), await run(device!.packedMatrix(packed, 1))]
    const x = await halves(7, 5, 256)
    const work = timedWork()
    await run(work.recordPacked(matrices, x.tensor, 6))
    emulated!.launches()
    expect(await run(work.turn())).toBe(0)
    const kernels = emulated!.launches().map(({ kernel }) => kernel)
    expect(kernels.filter((name) => name.startsWith('packedGemv'))).toHaveLength(6)
    expect(kernels.filter((name) => name === 'tokenScales')).toHaveLength(6)
    const y = (await run(work.output())).toFloat32Array()
    const weights = (await run(packed.dequantize(1))).toFloat32Array()
    expect(largestError(y, x.values, weights, 256)).toBeLessThan(1e-3)
    work.dispose()
    for (const matrix of matrices) matrix.dispose()
    expect(device!.usedBytes).toBe(0)
  })

  it('copies, and the pool tells the most that it had', async () => {
    const work = timedWork()
    await run(work.recordCopies(1 << 22, 3))
    expect(await run(work.turn())).toBe(0)
    await expect(run(work.output())).rejects.toThrow('No product is recorded')
    work.dispose()
    expect(device!.usedBytes).toBe(0)
    expect(device!.peakBytes).toBeGreaterThanOrEqual(2 << 22)
  })

  it.each([
    [1, 24, 40],
    [5, 33, 64],
  ])('asks cuBLAS for x · Wᵀ: %i tokens, %i rows, %i columns', async (tokens, rows, cols) => {
    const [x, weight] = [await halves(1, tokens, cols), await halves(2, rows, cols)]
    const work = timedWork()
    const description = await run(work.recordCublas(weight.tensor, 3, x.tensor, 6, buildDouble()))
    expect(description).toMatch(/cublas_double\.so, version 1$/)
    expect(await run(work.turn())).toBe(0)
    const y = (await run(work.output())).toFloat32Array()
    expect(y).toHaveLength(tokens * rows)
    expect(largestError(y, x.values, weight.values, cols)).toBeLessThan(0.03)
    work.dispose()
    expect(device!.usedBytes).toBe(0)
  })

  it('says which cuBLAS cannot be opened', async () => {
    const x = await halves(1, 1, 8)
    const work = timedWork()
    await expect(
      run(work.recordCublas(x.tensor, 1, x.tensor, 1, '/nowhere/libcublas.so')),
    ).rejects.toMatchObject({
      code: 'SLIM_DEVICE_UNAVAILABLE',
      message: expect.stringContaining('/nowhere/libcublas.so'),
    })
    work.dispose()
  })

  it('refuses what it cannot time', async () => {
    const work = timedWork()
    const x = await halves(1, 1, 8)
    const packed = new native.PackedMatrix(await tensorsOf(await randomParts(4, 32, 32, Uint8Array.of(2))))
    const matrix = await run(device!.packedMatrix(packed, 1))
    await expect(run(work.turn())).rejects.toThrow('Nothing is recorded')
    expect(() => work.recordPacked([], x.tensor, 1)).toThrow(/matrices/)
    expect(() => work.recordPacked([matrix], x.tensor, 1)).toThrow('F16 [tokens, 32]')
    expect(() => work.recordPacked([matrix], native.allocateTensor('F32', [1, 32]), 1)).toThrow('F16')
    expect(() => work.recordCublas(x.tensor, 0, x.tensor, 1)).toThrow(/copies/)
    expect(() => work.recordCopies(0, 1)).toThrow(/bytes/)
    matrix.dispose()
    expect(() => work.recordPacked([matrix], x.tensor, 1)).toThrow('matrices[0]')
    work.dispose()
    expect(() => work.turn()).toThrow('disposed')
  })
})
