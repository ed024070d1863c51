import { afterAll, describe, expect, it } from 'vitest'
import { addon, type NativeTensor, type Quantizer, run } from '../../lib/native/addon.js'
import { type EmulatedDevice, hasEmulator, onGpu, openEmulated } from '../support/cuda.js'
import { dequantizeParts, type Parts, unpack } from '../support/packed.js'
import { normals } from '../support/random.js'

const native = addon()
const skip = !hasEmulator()
const emulated: EmulatedDevice | null = skip ? null : openEmulated()
afterAll(() => emulated?.close())

const QUANTIZERS = ['minmax', 'sqc', 'wide'] as const
/** The CPU's vector kernels do SQC's arithmetic operation by operation as the device does; its plain loop does not. */
const vectors = native.instructionSet().startsWith('avx')

const f32 = (values: Float32Array, ...shape: number[]) => native.tensorFrom(values, 'F32', shape)
const share = (a: ArrayLike<number>, b: ArrayLike<number>) => {
  expect(a.length).toBe(b.length)
  return Array.from(a).filter((value, i) => value === b[i]).length / a.length
}

interface Case {
  w: Float32Array
  cols: number
  groupSize: number
  groupBits: Uint8Array
  quantizer: Quantizer
}

/** The CPU's fit and the device's. */
async function fitBoth({ w, cols, groupSize, groupBits, quantizer }: Case): Promise<[Parts, Parts]> {
  const weight = f32(w, w.length / cols, cols)
  const options = { groupSize, quantizer }
  const cpu = await run(native.fitGroups(weight, groupBits, options, 1))
  const gpu = await run(emulated!.device.fitGroups(weight, groupBits, options, 1))
  return [unpack(cpu), unpack(gpu)]
}

/**
 * Min-max is the CPU's bit for bit, SQC too beside its vector kernels. One-bit means are sums in another order, in
 * float64; least-squares scales of the wide search in float32, which may take the float16 beside, or stop earlier.
 */
function expectSame([cpu, gpu]: [Parts, Parts], quantizer: Quantizer) {
  if (quantizer === 'minmax' || (quantizer === 'sqc' && vectors)) {
    expect(gpu).toEqual(cpu)
    return
  }
  expect(share(gpu.codes, cpu.codes)).toBeGreaterThanOrEqual(quantizer === 'wide' ? 0.999 : 0.99)
  expect(share(gpu.scales, cpu.scales)).toBeGreaterThanOrEqual(0.97)
  expect(share(gpu.offsets, cpu.offsets)).toBeGreaterThanOrEqual(0.99)
  const [a, b] = [dequantizeParts(cpu), dequantizeParts(gpu)]
  let [difference, power] = [0, 0]
  for (let i = 0; i < a.length; i++) {
    difference += (a[i]! - b[i]!) ** 2
    power += a[i]! ** 2
  }
  expect(difference).toBeLessThanOrEqual(1e-4 * power)
}

/** A row of zeros, one of equal weights and one with an outlier among others. */
const weights = (rows: number, cols: number, seed: number) =>
  normals(seed, rows * cols).map((value, i) => {
    const kind = Math.floor(i / cols) % 9
    if (kind === 3) return 0
    if (kind === 4) return -0.3
    return kind === 5 && i % cols === 2 ? 20 : 0.03 * value
  })

const alone = (bits: number, groups: number) => new Uint8Array(groups).fill(bits)
const mixed = (groups: number) => Uint8Array.from({ length: groups }, (_, g) => 1 + ((g * 3 + 1) % 8))

/** Channels that are correlated: compensation has something to use. */
async function correlated(cols: number): Promise<{ hessian: NativeTensor; upper: NativeTensor }> {
  const x = normals(cols, 2 * cols * cols)
  for (let i = 1; i < x.length; i++) if (i % cols) x[i] = 0.8 * x[i - 1]! + 0.6 * x[i]!
  const h = new native.Hessian(cols, 0)
  await run(h.add(f32(x, 2 * cols, cols), 1, 2))
  const hessian = h.matrix()
  return { hessian, upper: (await run(native.inverseFactor(hessian, 'gptq', 2))).upper }
}

function outputError(w: Float32Array, q: Float32Array, h: Float32Array, cols: number): number {
  let sum = 0
  const d = Float64Array.from(q, (value, i) => w[i]! - value)
  for (let r = 0; r < d.length; r += cols)
    for (let i = 0; i < cols; i++)
      for (let j = 0; j < cols; j++) sum += d[r + i]! * h[i * cols + j]! * d[r + j]!
  return sum
}

describe.skipIf(skip)('groups fitted on the emulated device', () => {
  const rows = [1, 7, 8, 9, 16, 31, 33, 67]
  for (const groupSize of [32, 64, 128, 256])
    for (const bits of [1, 2, 3, 4, 5, 6, 7, 8])
      it(`min-max, ${rows[bits - 1]} rows in groups of ${groupSize}, ${bits} bits`, async () => {
        const cols = 2 * groupSize + 13
        const w = weights(rows[bits - 1]!, cols, bits)
        const fit = { w, cols, groupSize, groupBits: alone(bits, 3), quantizer: 'minmax' } as const
        expectSame(await fitBoth(fit), 'minmax')
      })

  for (const quantizer of ['sqc', 'wide'] as const) {
    for (const bits of [1, 2, 3, 4, 5, 6, 7, 8])
      it(`${quantizer}, ${bits} bits`, async () => {
        const [groupSize, cols] = [64, 150]
        const w = weights(11, cols, bits)
        expectSame(await fitBoth({ w, cols, groupSize, groupBits: alone(bits, 3), quantizer }), quantizer)
      })
    for (const [rowCount, groupSize, cols] of [
      [1, 1, 9],
      [5, 24, 83],
      [67, 32, 40],
      [3, 128, 700],
      [9, 128, 129],
      [3, 256, 530],
      [2, 250, 250],
    ] as const)
      it(`${quantizer}, ${rowCount} × ${cols} in groups of ${groupSize}, all widths`, async () => {
        const w = weights(rowCount, cols, cols)
        const groupBits = mixed(Math.ceil(cols / groupSize))
        expectSame(await fitBoth({ w, cols, groupSize, groupBits, quantizer }), quantizer)
      })
  }

  const hard: ((i: number) => number)[] = [
    () => 0,
    () => 0.25,
    () => -3,
    (i) => ((i % 7) - 3) * 1e-12,
    (i) => ((i % 7) - 3) * 1e-41,
    (i) => ((i % 3) - 1) * 1.5e-45,
    (i) => ((i % 7) - 3) * 1e-30,
    (i) => ((i % 7) - 3) * 1e30,
    (i) => (i % 2 ? -1 : 1) * 10 ** (-26 - (i % 19)),
    (i) => ((i % 3) - 1) * 3.4e38,
    (i) => ((i % 7) - 3) * 1e7,
    (i) => (i === 5 ? 1000 : 1e-3),
    (i) => (i % 5) * 0.1,
    (i) => -(i % 5) * 0.1,
  ]
  for (const quantizer of QUANTIZERS)
    for (const bits of [1, 2, 3, 8])
      it(`${quantizer}, ${bits} bits: groups that are hard to divide by`, async () => {
        const w = Float32Array.from({ length: hard.length * 40 }, (_, i) => hard[Math.floor(i / 40)]!(i % 40))
        const [cpu, gpu] = await fitBoth({ w, cols: 40, groupSize: 40, groupBits: alone(bits, 1), quantizer })
        if (quantizer === 'sqc' && !vectors) expect(dequantizeParts(gpu).every(Number.isFinite)).toBe(true)
        else expect(gpu).toEqual(cpu)
      })

  for (const bits of [2, 3, 4, 8])
    it(`weights halfway between two of ${2 ** bits} levels go to the even one`, async () => {
      const zero = 2 ** (bits - 1) - 1
      const cols = 2 ** (bits + 1) - 1 // −zero, −zero + ½, … maxCode − zero: the scale is 1
      const w = Float32Array.from({ length: cols }, (_, i) => i / 2 - zero)
      const groupSize = Math.min(cols, 256)
      const groups = Math.ceil(cols / groupSize)
      const both = await fitBoth({ w, cols, groupSize, groupBits: alone(bits, groups), quantizer: 'minmax' })
      expectSame(both, 'minmax')
      if (groups === 1) {
        const values = dequantizeParts(both[1])
        for (const [i, v] of values.entries()) expect(i % 2 ? v % 2 : v - w[i]!).toBeCloseTo(0, 12)
      }
    })

  it('are the same bytes twice, and give their memory back', async () => {
    const [cols, groupBits] = [200, mixed(4)]
    const weight = f32(weights(9, cols, 3), 9, cols)
    const used = emulated!.device.usedBytes
    const once = async () => {
      const job = emulated!.device.fitGroups(weight, groupBits, { groupSize: 64, quantizer: 'wide' }, 1)
      const packed = await run(job)
      return [packed.qweight(), packed.scales(), packed.qzeros()].map((part) => part.toBytes())
    }
    expect(await once()).toEqual(await once())
    expect(emulated!.device.usedBytes).toBe(used)
  })

  it.skipIf(onGpu)('read shared memory without bank conflicts', async () => {
    emulated!.launches()
    for (const quantizer of QUANTIZERS)
      await fitBoth({ w: weights(8, 256, 2), cols: 256, groupSize: 128, groupBits: alone(2, 2), quantizer })
    const launches = emulated!.launches().filter(({ kernel }) => kernel === 'quantizeGroups128')
    expect(launches.length).toBe(3)
    for (const l of launches) expect(l.sharedWavefronts).toBe(l.minimumWavefronts)
  })
})

describe.skipIf(skip)('GPTQ on the emulated device', () => {
  const shapes: [number, number, number, number[]][] = [
    [1, 20, 20, [2]],
    [5, 33, 8, [2, 3]],
    [19, 130, 64, [8]],
    [11, 200, 24, [1, 2, 3, 4]],
    [9, 300, 128, [2, 3]],
    [3, 530, 256, [2]],
    [2, 1100, 100, [2, 4, 8]],
  ]
  for (const quantizer of QUANTIZERS)
    for (const [rows, cols, groupSize, widths] of shapes)
      it(`${quantizer}, ${rows} × ${cols}, groups of ${groupSize}, widths ${widths}`, async () => {
        const w = normals(rows, rows * cols)
        const { hessian, upper } = await correlated(cols)
        const h = hessian.toFloat32Array()
        const count = Math.ceil(cols / groupSize)
        const groupBits = Uint8Array.from({ length: count }, (_, g) => widths[g % widths.length]!)
        const weight = f32(w, rows, cols)
        const diagonal = Float32Array.from({ length: cols }, (_, j) => h[j * cols + j]!)
        const costs = f32(diagonal, 1, cols)
        const options = { groupSize, quantizer }
        const cpu = unpack(await run(native.gptq(weight, hessian, groupBits, options, 2)))
        const gpu = unpack(
          await run(emulated!.device.gptq(weight, upper, groupBits, { ...options, costs }, 1)),
        )
        // A weight on the other side of a rounding boundary changes all columns after it in its row.
        expect(share(gpu.codes, cpu.codes)).toBeGreaterThan(0.9)
        const errors = [cpu, gpu].map((parts) => outputError(w, dequantizeParts(parts), h, cols))
        expect(Math.abs(errors[1]! / errors[0]! - 1)).toBeLessThan(0.02)
      })

  for (const quantizer of QUANTIZERS)
    it(`${quantizer}: a diagonal Hessian gives what no compensation gives`, async () => {
      const [rows, cols, groupSize] = [9, 200, 64]
      const weight = f32(weights(rows, cols, 4), rows, cols)
      const upper = new Float32Array(cols * cols)
      for (let j = 0; j < cols; j++) upper[j * cols + j] = 1 / (1 + (j % 5))
      const [groupBits, options] = [mixed(4), { groupSize, quantizer }]
      const { device } = emulated!
      const compensated = await run(device.gptq(weight, f32(upper, cols, cols), groupBits, options, 1))
      expect(unpack(compensated)).toEqual(unpack(await run(device.fitGroups(weight, groupBits, options, 1))))
    })

  it('refuses what does not fit', () => {
    const { device } = emulated!
    const weight = f32(normals(1, 3 * 600), 3, 600)
    const options = { groupSize: 300, quantizer: 'minmax' } as const
    const refuses = (fields: object, body: () => unknown) =>
      expect(body).toThrow(expect.objectContaining(fields))
    refuses({ code: 'SLIM_GROUP_SIZE', parameter: 'groupSize', expected: '1 to 256' }, () =>
      device.fitGroups(weight, alone(2, 2), options, 1),
    )
    const small = { ...options, groupSize: 200 }
    refuses({ parameter: 'groupBits' }, () => device.fitGroups(weight, alone(2, 2), small, 1))
    const upper = f32(new Float32Array(600 * 600), 600, 600)
    refuses({ parameter: 'upper' }, () => device.gptq(weight, weight, alone(2, 3), small, 1))
    refuses({ parameter: 'options.costs' }, () =>
      device.gptq(weight, upper, alone(2, 3), { ...small, costs: upper }, 1),
    )
  })
})
