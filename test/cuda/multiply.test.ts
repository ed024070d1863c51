/** Float32 products on the emulated device against float64 loops (gemmCase's reference). */
import { afterAll, describe, expect, it } from 'vitest'
import { addon, type GemmCase, type GemmOperand, run } from '../../lib/native/addon.js'
import { type EmulatedDevice, hasEmulator, onGpu, openEmulated } from '../support/cuda.js'
import { normals } from '../support/random.js'

const native = addon()
const skip = !hasEmulator()
const emulated: EmulatedDevice | null = skip ? null : openEmulated()
afterAll(() => emulated?.close())

const CANARY = 12345.5
const LAYOUTS = ['rows', 'columns'] as const

interface Shape {
  m: number
  n: number
  k: number
  layouts?: readonly [GemmOperand['layout'], GemmOperand['layout']]
  /** Columns of the tensors beyond what the product reads or writes. */
  extra?: number
  alpha?: number
  accumulate?: boolean
  upperOnly?: boolean
}

function operand(rows: number, k: number, layout: GemmOperand['layout'], extra: number, seed: number) {
  const [height, width] = layout === 'rows' ? [rows, k + extra] : [k, rows + extra]
  return { tensor: native.tensorFrom(normals(seed, height * width), 'F32', [height, width]), layout }
}

const magnitudes = ({ tensor, layout }: GemmOperand) => ({
  tensor: native.tensorFrom(tensor.toFloat32Array().map(Math.abs), 'F32', tensor.shape),
  layout,
})

/** Largest error over Σ|a||b| (+ |c|); canaries around C must live. */
async function worst({ m, n, k, layouts = ['rows', 'rows'], extra = 0, ...options }: Shape) {
  const a = operand(m, k, layouts[0], extra, 1)
  const b = operand(n, k, layouts[1], extra, 2)
  const cols = n + extra
  const initial = normals(3, m * cols).map((v, i) => (i % cols < n && options.accumulate ? v : CANARY))
  const c = native.tensorFrom(initial, 'F32', [m, cols])
  const exact = native.tensorFrom(initial, 'F32', [m, cols])
  const sums = native.tensorFrom(new Float32Array(m * cols), 'F32', [m, cols])
  const shape: GemmCase = { m, n, k, a, b, ...options }
  await run(emulated!.device.multiply(c, shape))
  await run(native.gemmCase(exact, { ...shape, upperOnly: false, reference: true }, 1))
  await run(
    native.gemmCase(
      sums,
      { m, n, k, a: magnitudes(a), b: magnitudes(b), alpha: Math.abs(options.alpha ?? 1), reference: true },
      1,
    ),
  )
  const [given, expected, bounds] = [c, exact, sums].map((t) => t.toFloat32Array())
  let largest = 0
  given!.forEach((value, i) => {
    const [row, column] = [Math.floor(i / cols), i % cols]
    if (column >= n) expect(value).toBe(CANARY)
    if (column >= n || (options.upperOnly && column < row)) return
    const bound = bounds![i]! + (options.accumulate ? Math.abs(initial[i]!) : 0)
    const error = Math.abs(value - expected![i]!) / Math.max(bound, 1e-30)
    if (!(error <= largest)) largest = error
  })
  return largest
}

// 2^-22 for the product of the small parts, 2^-23 for their rounding, 2^-24 for every sum's.
const BOUND = 1e-6

describe.skipIf(skip)('products on the emulated device', () => {
  for (const a of LAYOUTS)
    for (const b of LAYOUTS)
      for (const extra of [0, 4, 1])
        it(`are right for A by ${a}, B by ${b}, ${extra} columns more`, async () => {
          for (const [m, n, k] of [
            [64, 64, 16],
            [68, 132, 36],
            [1, 1, 1],
            [7, 66, 50],
            [65, 3, 17],
          ] as const)
            expect(await worst({ m, n, k, layouts: [a, b], extra })).toBeLessThan(BOUND)
        })

  for (const a of LAYOUTS)
    for (const b of LAYOUTS)
      it(`are right in large tiles for A by ${a}, B by ${b}`, async () => {
        emulated!.launches()
        // One tile and more for each of the emulated device's 108 multiprocessors, rows of whole vectors.
        const error = await worst({ m: 134, n: 6906, k: 134, layouts: [a, b], extra: 2 })
        expect(error).toBeLessThan(BOUND)
        if (onGpu) return
        const launch = emulated!.launches()[0]!
        expect(launch.kernel).toMatch(/^multiply128/)
        expect(launch.sharedWavefronts).toBe(launch.minimumWavefronts)
      })

  for (const a of LAYOUTS)
    for (const b of LAYOUTS)
      it(`are right in batches for A by ${a}, B by ${b}`, async () => {
        for (const [batch, m, n, k] of [
          [3, 5, 66, 17], // matrices do not begin on vectors
          [2, 68, 12, 20],
          [18, 132, 260, 132], // large tiles: 6 of each product, 108 multiprocessors
        ] as const) {
          // Small integers, whose products are exact.
          const matrices = (rows: number, layout: GemmOperand['layout'], seed: number) =>
            Array.from({ length: batch }, (_, i) => {
              const { tensor } = operand(rows, k, layout, 0, seed + i)
              const values = tensor.toFloat32Array().map((x) => Math.round(4 * x))
              return { tensor: native.tensorFrom(values, 'F32', tensor.shape), layout }
            })
          const stacked = (parts: ReturnType<typeof matrices>) => {
            const [height, width] = parts[0]!.tensor.shape as [number, number]
            const values = Float32Array.from(parts.flatMap(({ tensor }) => [...tensor.toFloat32Array()]))
            return {
              tensor: native.tensorFrom(values, 'F32', [batch * height, width]),
              layout: parts[0]!.layout,
            }
          }
          const [as, bs] = [matrices(m, a, 1), matrices(n, b, 100)]
          const zeros = (rows: number) => native.allocateTensor('F32', [rows, n])
          const c = zeros(batch * m)
          emulated!.launches()
          await run(emulated!.device.multiply(c, { m, n, k, a: stacked(as), b: stacked(bs), batch }))
          const launches = emulated!.launches()
          const values = c.toFloat32Array()
          for (let i = 0; i < batch; i++) {
            const expected = zeros(m)
            await run(native.gemmCase(expected, { m, n, k, a: as[i]!, b: bs[i]!, reference: true }, 1))
            expect(values.slice(i * m * n, (i + 1) * m * n)).toEqual(expected.toFloat32Array())
          }
          if (onGpu) continue
          expect(launches.map(({ kernel }) => kernel)).toEqual([
            expect.stringMatching(batch === 18 ? /^multiply128/ : /^multiply64/),
          ])
        }
      })

  for (const accumulate of [false, true])
    for (const upperOnly of [false, true])
      it(`${accumulate ? 'are added to C' : 'replace C'}${upperOnly ? ', above the diagonal' : ''}`, async () => {
        for (const [size, extra] of [
          [130, 0],
          [133, 2],
        ] as const) {
          const shape = { m: size, n: size, k: 21, alpha: -0.75, accumulate, upperOnly, extra }
          expect(await worst({ ...shape, layouts: ['columns', 'columns'] })).toBeLessThan(BOUND)
        }
      })

  it('leave tiles below the diagonal alone', async () => {
    const n = 200
    const x = native.tensorFrom(normals(1, 5 * n), 'F32', [5, n])
    const c = native.tensorFrom(new Float32Array(n * n).fill(CANARY), 'F32', [n, n])
    const operandOfBoth = { tensor: x, layout: 'columns' } as const
    await run(
      emulated!.device.multiply(c, { m: n, n, k: 5, a: operandOfBoth, b: operandOfBoth, upperOnly: true }),
    )
    const values = c.toFloat32Array()
    for (let i = 64; i < n; i++)
      for (let j = 0; j < 64 * Math.floor(i / 64); j++) expect(values[i * n + j]).toBe(CANARY)
  })

  it('keep their precision over a long K', async () => {
    expect(await worst({ m: 5, n: 9, k: 3001 })).toBeLessThan(BOUND)
  })

  it('of nothing are nothing', async () => {
    const none = native.tensorFrom(new Float32Array(0), 'F32', [0, 5])
    const c = native.tensorFrom(Float32Array.of(3), 'F32', [1, 1])
    const a = { tensor: native.tensorFrom(Float32Array.of(1), 'F32', [1, 1]), layout: 'rows' } as const
    await run(emulated!.device.multiply(c, { m: 1, n: 1, k: 0, a, b: a, accumulate: true }))
    expect([...c.toFloat32Array()]).toEqual([3])
    await run(emulated!.device.multiply(c, { m: 1, n: 1, k: 0, a, b: a }))
    expect([...c.toFloat32Array()]).toEqual([0])
    const b = { tensor: native.tensorFrom(new Float32Array(5), 'F32', [1, 5]), layout: 'rows' } as const
    await run(emulated!.device.multiply(c, { m: 0, n: 1, k: 5, a: { tensor: none, layout: 'rows' }, b }))
    expect([...c.toFloat32Array()]).toEqual([0])
  })

  it.skipIf(onGpu)('meet no bank of shared memory twice, and read whole sectors', async () => {
    for (const a of LAYOUTS)
      for (const b of LAYOUTS) {
        emulated!.launches()
        await worst({ m: 128, n: 128, k: 32, layouts: [a, b] })
        const launch = emulated!.launches()[0]!
        expect(launch.sharedWavefronts).toBe(launch.minimumWavefronts)
        expect(launch.sectors).toBe(launch.minimumSectors)
      }
  })
})
