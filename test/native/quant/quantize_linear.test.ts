import { describe, expect, it } from 'vitest'
import { addon, type NativeHessian, type QuantizeLinearOptions, run } from '../../../lib/native/addon.js'
import { productTransposed } from '../../support/linear.js'
import { unpack } from '../../support/packed.js'
import { normals } from '../../support/random.js'

const native = addon()
const slim = { bits: 2, groupSize: 24, allocation: 'sba', quantizer: 'sqc', compensation: 'gptq' } as const

async function randomHessian(
  cols: number,
  tokens: number,
  change = (x: Float32Array) => x,
): Promise<NativeHessian> {
  const hessian = new native.Hessian(cols, 3)
  const x = change(normals(cols, tokens * cols))
  await run(hessian.add(native.tensorFrom(x, 'F32', [tokens, cols]), 2, 2))
  return hessian
}

const matrix = (rows: number, cols: number) =>
  native.tensorFrom(normals(rows, rows * cols), 'F32', [rows, cols])

describe('quantizeLinear', () => {
  it.each([
    { allocation: 'uniform', quantizer: 'minmax', compensation: 'none' },
    { allocation: 'uniform', quantizer: 'sqc', compensation: 'none' },
    { allocation: 'sba', quantizer: 'minmax', compensation: 'none' },
    { allocation: 'sba', quantizer: 'sqc', compensation: 'gptq' },
    { allocation: new Uint8Array([1, 8, 3, 2, 2, 7, 6, 5, 4]), quantizer: 'sqc', compensation: 'gptq' },
  ] as const)('$allocation, $quantizer, $compensation', async (choice) => {
    const [rows, cols, tokens] = [37, 200, 500]
    const x = normals(cols, tokens * cols)
    const weight = matrix(rows, cols)
    const options: QuantizeLinearOptions = { ...slim, ...choice }
    const result = await run(native.quantizeLinear(weight, await randomHessian(cols, tokens), options, 2))
    const w = weight.toFloat32Array()
    const q = (await run(result.packed.dequantize(2))).toFloat32Array()
    const norm = (m: Float32Array) => Math.hypot(...productTransposed(x, m, tokens, rows, cols))
    const expected = norm(w.map((v, i) => v - q[i]!)) / norm(w)
    expect(Math.abs(result.relativeError / expected - 1)).toBeLessThan(1e-4)
    expect(result.damping).toBe(choice.compensation === 'gptq' ? 0.01 : 0)
    expect(result.salienceDamping).toBe(choice.allocation === 'sba' ? 0.01 : 0)
    expect(result.groupBits).toEqual(result.packed.groupBits().toBytes())
    const searched = choice.allocation === 'sba'
    expect(result.kl?.length ?? null).toBe(searched ? 3 : null)
    expect(result.salience?.length ?? null).toBe(searched ? 9 : null)
    if (typeof choice.allocation !== 'string') expect(result.groupBits).toEqual(choice.allocation)
    for (const seconds of Object.values(result.seconds)) expect(seconds).toBeGreaterThanOrEqual(0)
  })

  it('is its parts, one after the other', async () => {
    const [rows, cols] = [30, 130]
    const hessian = await randomHessian(cols, 400)
    const weight = matrix(rows, cols)
    const whole = await run(native.quantizeLinear(weight, hessian, slim, 2))
    const h = hessian.matrix()
    const salience = await run(native.groupSalience(weight, h, slim.groupSize, 2))
    expect(whole.salience).toEqual(salience)
    const sequences = 2
    const allocation = await run(
      native.allocateBits(weight, hessian.samples(), salience, { bits: 2, groupSize: 24, sequences }, 2),
    )
    expect(whole.groupBits).toEqual(allocation.groupBits)
    // 134 of 400 tokens were kept: the KL over them stands for that share of the sequences.
    whole.kl!.forEach((value, i) => void expect(value).toBeCloseTo((allocation.kl[i]! * 400) / 134, 6))
    const packed = await run(native.gptq(weight, h, allocation.groupBits, slim, 2))
    expect(unpack(whole.packed)).toEqual(unpack(packed))
  })

  it('says when the damping of the salience had to grow', async () => {
    // One direction alone, of channels that differ by 1e4: without more than 0.01, rounding makes pivots negative.
    const rankOne = (x: Float32Array) => x.map((_, i) => x[i - (i % 130)]! * (i % 130 ? 3e4 : 1e4))
    const hessian = await randomHessian(130, 400, rankOne)
    const { salienceDamping } = await run(native.quantizeLinear(matrix(8, 130), hessian, slim, 2))
    expect(salienceDamping).toBeGreaterThan(0.05)
  })

  it('gives the same bytes with one thread and two', async () => {
    const hessian = await randomHessian(300, 700)
    const weight = matrix(75, 300)
    const [one, two] = await Promise.all(
      [1, 2].map((threads) => run(native.quantizeLinear(weight, hessian, slim, threads))),
    )
    for (const part of ['qweight', 'groupBits', 'scales', 'qzeros'] as const)
      expect(two!.packed[part]().toBytes()).toEqual(one!.packed[part]().toBytes())
    expect(two!.relativeError).toBe(one!.relativeError)
    expect(two!.kl).toEqual(one!.kl)
  })

  it('takes any float dtype', async () => {
    const hessian = await randomHessian(96, 300)
    for (const dtype of ['F16', 'BF16'] as const) {
      const short = await run(native.convertTensor(matrix(20, 96), dtype, 1))
      const long = await run(native.convertTensor(short, 'F32', 1))
      const [a, b] = await Promise.all(
        [short, long].map((w) => run(native.quantizeLinear(w, hessian, slim, 2))),
      )
      expect(unpack(a!.packed)).toEqual(unpack(b!.packed))
    }
  })

  it('stays finite with dead channels, constant groups and zero rows', async () => {
    const [rows, cols] = [20, 120]
    const dead = [0, 5, 119]
    const hessian = await randomHessian(cols, 90, (x) => x.map((v, i) => (dead.includes(i % cols) ? 0 : v)))
    const w = normals(6, rows * cols).map((v, i) => {
      if (Math.floor(i / cols) === 3) return 0
      if (i % cols >= 24 && i % cols < 48) return 0.5
      return i % cols === 5 ? 1e6 : v
    })
    const weight = native.tensorFrom(w, 'F32', [rows, cols])
    for (const bits of [1, 2, 3]) {
      const result = await run(native.quantizeLinear(weight, hessian, { ...slim, bits }, 2))
      const q = (await run(result.packed.dequantize(1))).toFloat32Array()
      expect(q.every(Number.isFinite)).toBe(true)
      expect(Number.isFinite(result.relativeError)).toBe(true)
      expect(q.subarray(3 * cols, 4 * cols).every((v) => v === 0)).toBe(true)
    }
  })

  it('reports an error of 0 for a layer of zeros', async () => {
    const weight = native.allocateTensor('F32', [4, 96])
    const result = await run(native.quantizeLinear(weight, await randomHessian(96, 100), slim, 1))
    expect(result.relativeError).toBe(0)
  })

  it('can be cancelled', async () => {
    const job = native.quantizeLinear(matrix(512, 512), await randomHessian(512, 600), slim, 1)
    job.cancel()
    await expect(run(job)).rejects.toMatchObject({ code: 'SLIM_ABORTED' })
  })

  describe('refuses', async () => {
    const hessian = await randomHessian(48, 100)
    const weight = matrix(4, 48)
    const start = async (change: object, w = weight, h = hessian) =>
      run(native.quantizeLinear(w, h, { ...slim, ...change } as QuantizeLinearOptions, 1))
    it.each([
      ['a group size larger than the layer', { groupSize: 64 }, 'SLIM_GROUP_SIZE', 'groupSize'],
      ['9 bits', { bits: 9 }, 'SLIM_INVALID_ARGUMENT', 'options.bits'],
      ['0 bits', { bits: 0 }, 'SLIM_INVALID_ARGUMENT', 'options.bits'],
      ['an unknown quantizer', { quantizer: 'best' }, 'SLIM_INVALID_ARGUMENT', 'options.quantizer'],
      ['an unknown allocation', { allocation: 'best' }, 'SLIM_INVALID_ARGUMENT', 'options.allocation'],
      ['an unknown compensation', { compensation: 1 }, 'SLIM_INVALID_ARGUMENT', 'options.compensation'],
      [
        'a bit map of other groups',
        { allocation: new Uint8Array([2]) },
        'SLIM_INVALID_ARGUMENT',
        'groupBits',
      ],
      ['a width of 0', { allocation: new Uint8Array([2, 0]) }, 'SLIM_INVALID_ARGUMENT', 'groupBits[1]'],
    ])('%s', async (_, change, code, parameter) => {
      await expect(start(change)).rejects.toMatchObject({ code, parameter })
    })

    it('both numbers of a group size that does not fit', async () => {
      await expect(start({ groupSize: 64 })).rejects.toThrow(/64 .* 48/)
    })

    it('a Hessian of another size, or without inputs', async () => {
      await expect(start({}, matrix(4, 49))).rejects.toMatchObject({ parameter: 'hessian' })
      await expect(start({}, weight, new native.Hessian(48, 1))).rejects.toMatchObject({
        parameter: 'hessian',
      })
    })

    it('an allocation without kept inputs', async () => {
      const without = new native.Hessian(96, 0)
      await run(without.add(matrix(100, 96), 1, 1))
      await expect(start({}, matrix(4, 96), without)).rejects.toMatchObject({ parameter: 'samples' })
    })

    it('a weight with NaN, and tells where', async () => {
      const w = normals(1, 4 * 48)
      w[2 * 48 + 5] = Number.NaN
      const failure = start({}, native.tensorFrom(w, 'F32', [4, 48]))
      await expect(failure).rejects.toMatchObject({ code: 'SLIM_TENSOR_NON_FINITE' })
      await expect(failure).rejects.toThrow('row 2, column 5')
    })
  })
})
