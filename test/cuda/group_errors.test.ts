import { afterAll, describe, expect, it } from 'vitest'
import { addon, type NativeHessian, type Quantizer, run } from '../../lib/native/addon.js'
import { hasEmulator, onGpu, openEmulated } from '../support/cuda.js'
import { normals, uniform } from '../support/random.js'

const native = addon()
const skip = !hasEmulator()
const emulated = skip ? null : openEmulated()
afterAll(() => emulated?.close())

const MOST_BITS = 8
const isDead = (j: number) => j % 10 === 6

interface Case {
  rows: number
  cols: number
  groupSize: number
  quantizer: Quantizer
  /** One channel an input: nothing is fed back. */
  independent?: boolean
}

function inputs({ cols, independent }: Case): Float32Array {
  const x = independent ? new Float32Array(cols * cols) : normals(cols, 2 * cols * cols)
  for (let i = 0; i < x.length; i++) {
    const j = i % cols
    if (independent && i % (cols + 1) === 0) x[i] = 1 + (j % 5)
    else if (!independent && j > 0) x[i] = 0.8 * x[i - 1]! + 0.6 * x[i]!
  }
  return x.map((value, i) => (isDead(i % cols) ? 0 : value))
}

/** The CPU's errors and the device's. */
async function both(of: Case): Promise<[Float64Array, Float64Array]> {
  const { rows, cols, groupSize, quantizer } = of
  // Rows of zeros and rows of equal weights among others.
  const w = normals(rows, rows * cols).map(
    (value, i) => [0, 0.25][(Math.floor(i / cols) % 6) - 3] ?? value * (1 + (i % cols) / cols),
  )
  const weight = native.tensorFrom(w, 'F32', [rows, cols])
  const x = inputs(of)
  const costs = Float64Array.from({ length: rows }, uniform(3))
  const options = { groupSize, quantizer, mostBits: MOST_BITS }
  const errors = async (maker: Pick<typeof native, 'groupErrors'>, hessian: NativeHessian) => {
    await run(hessian.add(native.tensorFrom(x, 'F32', [x.length / cols, cols]), 2, 1))
    const once = await run(maker.groupErrors(weight, hessian, costs, options, 1))
    expect(await run(maker.groupErrors(weight, hessian, costs, options, 2))).toEqual(once)
    hessian.dispose()
    return once
  }
  const { device } = emulated!
  return [await errors(native, new native.Hessian(cols, 0)), await errors(device, device.hessian(cols, 0))]
}

const ofWidth = (errors: Float64Array, bits: number) => errors.filter((_, i) => i % MOST_BITS === bits - 1)
const sum = (values: Float64Array) => values.reduce((a, b) => a + b, 0)

/** The largest relative difference of what the groups' shares of one width are. */
function shareDifference(cpu: Float64Array, gpu: Float64Array, bits: number): number {
  const [a, b] = [ofWidth(cpu, bits), ofWidth(gpu, bits)]
  return Math.max(...a.map((value, g) => Math.abs(b[g]! / sum(b) / (value / sum(a)) - 1)))
}

const shapes = [
  [1, 12, 12],
  [5, 33, 8],
  [37, 83, 24],
  [9, 300, 128],
  [3, 530, 256],
  [2, 600, 100],
] as const
const quantizers = ['minmax', 'sqc', 'wide'] as const

describe.skipIf(skip)('groupErrors on the emulated device', () => {
  it.each(shapes.flatMap((shape) => quantizers.map((quantizer) => [...shape, quantizer] as const)))(
    '%i × %i, groups of %i, %s',
    async (rows, cols, groupSize, quantizer) => {
      const [cpu, gpu] = await both({ rows, cols, groupSize, quantizer })
      expect(gpu.length).toBe(Math.ceil(cols / groupSize) * MOST_BITS)
      for (let bits = 1; bits <= MOST_BITS; bits++) {
        expect(shareDifference(cpu, gpu, bits)).toBeLessThan(1e-4)
        // A weight that GPTQ rounds to the other side changes what comes after it in its row.
        const [a, b] = [sum(ofWidth(cpu, bits)), sum(ofWidth(gpu, bits))]
        expect(Math.abs(b / a - 1), `${bits} bits`).toBeLessThan(0.02)
      }
    },
    120_000,
  )

  it.each(quantizers)('%s: the CPU’s numbers where nothing is fed back', async (quantizer) => {
    const [cpu, gpu] = await both({ rows: 19, cols: 83, groupSize: 24, quantizer, independent: true })
    gpu.forEach((error, i) => void expect(Math.abs(error / cpu[i]! - 1)).toBeLessThan(1e-6))
  })

  it('gives its memory back', async () => {
    const used = emulated!.device.usedBytes
    await both({ rows: 5, cols: 33, groupSize: 8, quantizer: 'minmax' })
    expect(emulated!.device.usedBytes).toBe(used)
  })

  it.skipIf(onGpu)('meets no bank of shared memory twice, and reads few sectors in vain', async () => {
    emulated!.launches()
    await both({ rows: 9, cols: 128, groupSize: 64, quantizer: 'wide' })
    const launches = emulated!.launches()
    for (const kernel of ['groupShares', 'addLosses']) {
      const own = launches.filter((launch) => launch.kernel === kernel)
      expect(own.length, kernel).toBeGreaterThan(0)
      for (const launch of own) {
        expect(launch.sharedWavefronts, kernel).toBe(launch.minimumWavefronts)
        // What a row has one number of takes a sector of its own.
        expect(launch.sectors, kernel).toBeLessThan(1.1 * launch.minimumSectors)
      }
    }
  })

  it('refuses what does not fit', async () => {
    const { device } = emulated!
    const weight = native.tensorFrom(normals(1, 4 * 600), 'F32', [4, 600])
    const hessian = device.hessian(600, 0)
    const options = { groupSize: 100, quantizer: 'wide', mostBits: 8 } as const
    const attempt = async (change: object, costs = 4, given: NativeHessian = hessian) =>
      run(device.groupErrors(weight, given, new Float64Array(costs), { ...options, ...change }, 1))
    await expect(attempt({ groupSize: 300 })).rejects.toMatchObject({ code: 'SLIM_GROUP_SIZE' })
    await expect(attempt({ mostBits: 9 })).rejects.toMatchObject({ parameter: 'options.mostBits' })
    await expect(attempt({}, 5)).rejects.toMatchObject({ parameter: 'rows' })
    await expect(attempt({}, 4, new native.Hessian(600, 0))).rejects.toMatchObject({ parameter: 'hessian' })
    for (const given of [hessian, device.hessian(601, 0)])
      await expect(attempt({}, 4, given)).rejects.toMatchObject({
        code: 'SLIM_INVALID_ARGUMENT',
        parameter: 'hessian',
      })
  })
})
