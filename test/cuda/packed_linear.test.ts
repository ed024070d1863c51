import { afterAll, describe, expect, it } from 'vitest'
import { addon, type FloatDType, type NativeTensor, run } from '../../lib/native/addon.js'
import { type EmulatedDevice, hasEmulator, openEmulated } from '../support/cuda.js'
import { dequantizeParts, type Parts, randomParts, tensorsOf } from '../support/packed.js'
import { normals, uniform } from '../support/random.js'

const native = addon()
const skip = !hasEmulator()
const emulated: EmulatedDevice | null = skip ? null : openEmulated()
afterAll(() => emulated?.close())

const EPSILON = 2 ** -24

const alone = (bits: number) => (groups: number) => new Uint8Array(groups).fill(bits)
const mixed =
  (seed: number, most = 4) =>
  (groups: number) => {
    const random = uniform(seed)
    return Uint8Array.from({ length: groups }, () => 1 + Math.floor(random() * most))
  }

async function onDevice(parts: Parts) {
  const matrix = new native.PackedMatrix(await tensorsOf(parts))
  return run(emulated!.device.packedMatrix(matrix, 1))
}

const half = async (values: Float32Array, shape: number[], dtype: FloatDType = 'F16') =>
  run(native.convertTensor(native.tensorFrom(values, 'F32', shape), dtype, 1))

/**
 * What a sum may be off by. mma adds what a code reads as, its value and up to 512 of excess, in float32; a slot's 8
 * products of 16 terms, their start and its correction make 16 roundings (a device may truncate where the emulator
 * rounds: twice the half unit). Then one for every slot.
 */
function allowed(parts: Parts, weights: Float32Array, row: number, x: Float32Array): number {
  const { cols, groupSize, rows, scales, codes } = parts
  let [inSlot, magnitude] = [0, 0]
  for (let k = 0; k < cols; k++) {
    const scale = scales[Math.floor(k / groupSize) * rows + row]!
    inSlot += scale * (513 + codes[row * cols + k]!) * Math.abs(x[k]!)
    magnitude += Math.abs(weights[row * cols + k]!) * Math.abs(x[k]!)
  }
  return EPSILON * (16 * 2 * inSlot + 2 * (Math.ceil(cols / Math.min(groupSize, 128)) + 4) * magnitude)
}

/**
 * y against float64 sums of the weights times x as it is (float16 or bfloat16: nothing is rounded on the way, but that
 * panels round the weights to 11 bits, or to 2^-39 of the largest: 1-bit ones twice, the scale and the mean too).
 */
function expectProduct(
  parts: Parts,
  x: Float32Array,
  y: Float32Array,
  start?: (t: number, r: number) => number,
) {
  const { rows, cols } = parts
  const weights = dequantizeParts(parts)
  const tokens = x.length / cols
  const rounding = tokens < tokensOfPanels(parts.groupSize) ? 0 : 3 * 2 ** -11
  expect(y.length).toBe(tokens * rows)
  for (let t = 0; t < tokens; t++) {
    const input = x.subarray(t * cols, (t + 1) * cols)
    for (let r = 0; r < rows; r++) {
      let exact = start?.(t, r) ?? 0
      let rounded = 0
      for (let k = 0; k < cols; k++) {
        exact += weights[r * cols + k]! * input[k]!
        const group = Math.floor(k / parts.groupSize)
        const magnitude =
          parts.groupBits[group] === 1
            ? Math.abs(parts.scales[group * rows + r]!) + Math.abs(parts.offsets[group * rows + r]!)
            : Math.abs(weights[r * cols + k]!)
        rounded += rounding * magnitude * Math.abs(input[k]!)
      }
      const error = Math.abs(y[t * rows + r]! - exact)
      const most = allowed(parts, weights, r, input) + 4 * EPSILON * Math.abs(exact) + rounded
      if (!(error <= most))
        expect.fail(`token ${t}, row ${r}: ${y[t * rows + r]} for ${exact}, more than ${most} off`)
    }
  }
}

/** From so many tokens on weights are float16, rounded (panels), in groups of so many columns. */
const tokensOfPanels = (groupSize: number) => (groupSize > 64 ? 193 : 65)

interface Problem {
  rows: number
  cols: number
  groupSize: number
  tokens: number
  bits: (groups: number) => Uint8Array
  dtype?: FloatDType
}

async function check({ rows, cols, groupSize, tokens, bits, dtype = 'F16' }: Problem) {
  const parts = await randomParts(rows, cols, groupSize, bits(Math.ceil(cols / groupSize)))
  const matrix = await onDevice(parts)
  const x = await half(normals(rows + tokens, tokens * cols), [tokens, cols], dtype)
  const y = await run(matrix.matmul(x))
  expectProduct(parts, x.toFloat32Array(), y.toFloat32Array())
  matrix.dispose()
}

describe.skipIf(skip)('packed products on the emulated device', () => {
  for (const bits of [1, 2, 3, 4, 5, 6, 7, 8])
    for (const tokens of [8, 64])
      it(`give the very weights of ${bits} bits for unit vectors, ${tokens} at once`, async () => {
        const [rows, cols, groupSize] = [37, 200, 128]
        const parts = await randomParts(rows, cols, groupSize, alone(bits)(2))
        const weights = dequantizeParts(parts)
        const matrix = await onDevice(parts)
        for (let first = 0; first < cols; first += tokens) {
          const count = Math.min(tokens, cols - first)
          const unit = Float32Array.from({ length: count * cols }, (_, i) =>
            i % cols === first + Math.floor(i / cols) ? 1 : 0,
          )
          const y = (await run(matrix.matmul(await half(unit, [count, cols])))).toFloat32Array()
          for (let t = 0; t < count; t++)
            for (let r = 0; r < rows; r++)
              expect(y[t * rows + r], `row ${r}, column ${first + t}`).toBe(weights[r * cols + first + t])
        }
        matrix.dispose()
      })

  for (const rows of [1, 15, 16, 17, 67])
    it(`are right for ${rows} rows`, async () => {
      for (const tokens of [1, 5]) await check({ rows, cols: 300, groupSize: 128, tokens, bits: mixed(rows) })
    })

  for (const [groupSize, cols] of [
    [1, 20],
    [16, 72],
    [32, 200],
    [48, 250],
    [64, 330],
    [100, 250],
    [128, 129],
    [128, 1000],
    [256, 700],
    [300, 700],
  ] as const)
    it(`are right for groups of ${groupSize} in ${cols} columns`, async () => {
      for (const tokens of [1, 8, 17])
        await check({ rows: 40, cols, groupSize, tokens, bits: mixed(cols, 8) })
    })

  for (let tokens = 1; tokens <= 40; tokens++)
    it(`are right for ${tokens} tokens`, () =>
      check({ rows: 35, cols: 390, groupSize: tokens % 2 ? 64 : 128, tokens, bits: mixed(tokens) }))

  for (const tokens of [64, 65, 130])
    it(`are right for ${tokens} tokens, in several blocks of rows`, () =>
      check({ rows: 290, cols: 260, groupSize: 128, tokens, bits: mixed(tokens) }))

  for (const [groupSize, tokens] of [
    [128, 128],
    [128, 192],
    [128, 193],
    [64, 33],
    [64, 64],
    [64, 65],
    [48, 65],
    [32, 16],
    [32, 40],
    [16, 130],
  ] as const)
    it(`are right for ${tokens} tokens and groups of ${groupSize}`, () =>
      check({ rows: 131, cols: 1100, groupSize, tokens, bits: mixed(tokens, 8) }))

  it('are right in several panels', () =>
    check({ rows: 130, cols: 65600, groupSize: 64, tokens: 65, bits: mixed(1) }))

  it('split K over CTAs, and warps', () =>
    Promise.all(
      [1, 2, 4, 8, 12].map((tokens) =>
        check({ rows: 33, cols: 4000, groupSize: 128, tokens, bits: mixed(tokens) }),
      ),
    ))

  it('take bfloat16 as it is', async () => {
    for (const tokens of [2, 10])
      await check({ rows: 20, cols: 200, groupSize: 64, tokens, bits: mixed(7), dtype: 'BF16' })
  })

  it('round float32 to 11 bits of every token, whatever its magnitude', async () => {
    const [rows, cols] = [16, 160]
    const parts = await randomParts(rows, cols, 64, mixed(3)(3))
    const matrix = await onDevice(parts)
    const magnitudes = [1e30, 1, 1e-30, 1e5, 1e-8, 0]
    for (const count of [1, magnitudes.length]) {
      const x = normals(5, count * cols).map((v, i) => Math.fround(v * magnitudes[Math.floor(i / cols)]!))
      const y = await run(matrix.matmul(native.tensorFrom(x, 'F32', [count, cols])))
      const weights = dequantizeParts(parts)
      y.toFloat32Array().forEach((value, i) => {
        let [exact, magnitude] = [0, 0]
        const [t, r] = [Math.floor(i / rows), i % rows]
        for (let k = 0; k < cols; k++) {
          exact += weights[r * cols + k]! * x[t * cols + k]!
          magnitude += Math.abs(weights[r * cols + k]! * x[t * cols + k]!)
        }
        // Half a unit of 11 bits each; and float16's least steps, 2^-39 of the largest.
        const most = 2 ** -11 * magnitude + allowed(parts, weights, r, x.subarray(t * cols, (t + 1) * cols))
        expect(Math.abs(value - exact)).toBeLessThanOrEqual(most)
      })
    }
  })

  it('keep the extremes of float16: scales, inputs, one token beside another', async () => {
    const [rows, cols] = [18, 136]
    const parts = await randomParts(rows, cols, 64, Uint8Array.of(1, 2, 3))
    for (let r = 0; r < rows; r++) {
      const [scale, mean] = r % 2 ? [65504, -65504] : [2 ** -24, 2 ** -24]
      for (let g = 0; g < 3; g++) parts.scales[g * rows + r] = scale
      parts.offsets[r] = mean
    }
    const matrix = await onDevice(parts)
    for (const tokens of [3, 9]) {
      const magnitude = (t: number) => [65504, 2 ** -24, 1][t % 3]!
      const x = await half(
        Float32Array.from(
          { length: tokens * cols },
          (_, i) => magnitude(Math.floor(i / cols)) * (i % 3 ? 1 : -1),
        ),
        [tokens, cols],
      )
      expectProduct(parts, x.toFloat32Array(), (await run(matrix.matmul(x))).toFloat32Array())
    }
  })

  it('are not finite where the input is not, and only there', async () => {
    const [rows, cols] = [20, 140]
    const matrix = await onDevice(await randomParts(rows, cols, 64, mixed(9)(3)))
    for (const tokens of [3, 12])
      for (const value of [Number.NaN, Number.POSITIVE_INFINITY]) {
        const x = normals(2, tokens * cols)
        x[cols + 70] = value
        const y = (await run(matrix.matmul(native.tensorFrom(x, 'F32', [tokens, cols])))).toFloat32Array()
        for (const [i, v] of y.entries()) expect(Number.isFinite(v)).toBe(Math.floor(i / rows) !== 1)
      }
  })

  it('add a bias, and to what is there', async () => {
    const [rows, cols] = [21, 150]
    const parts = await randomParts(rows, cols, 64, mixed(4)(3))
    const matrix = await onDevice(parts)
    for (const tokens of [2, 11]) {
      const [bias, before] = [normals(6, rows), normals(7, tokens * rows)]
      const x = await half(normals(8, tokens * cols), [tokens, cols])
      const y = await run(
        matrix.matmul(x, {
          bias: native.tensorFrom(bias, 'F32', [rows]),
          addTo: native.tensorFrom(before, 'F32', [tokens, rows]),
        }),
      )
      expectProduct(parts, x.toFloat32Array(), y.toFloat32Array(), (t, r) => bias[r]! + before[t * rows + r]!)
    }
  })

  it('are the same bytes twice', async () => {
    const matrix = await onDevice(await randomParts(33, 1500, 128, mixed(11)(12)))
    for (const tokens of [1, 8, 20]) {
      const x = await half(normals(1, tokens * 1500), [tokens, 1500])
      const once = async () => (await run(matrix.matmul(x))).toBytes()
      expect(await once()).toEqual(await once())
    }
  })

  it('give their memory back', async () => {
    const device = new native.CudaDevice(0)
    const parts = await randomParts(33, 300, 128, mixed(11)(3))
    const matrix = await run(device.packedMatrix(new native.PackedMatrix(await tensorsOf(parts)), 1))
    expect(device.usedBytes).toBeGreaterThanOrEqual(matrix.byteLength)
    const held = device.usedBytes
    await run(matrix.matmul(await half(normals(1, 300), [1, 300])))
    expect(device.usedBytes).toBe(held)
    matrix.dispose()
    expect(device.usedBytes).toBe(0)
    device.dispose()
  })

  it('ask for what fits', async () => {
    const matrix = await onDevice(await randomParts(5, 96, 32, mixed(1)(3)))
    const f32 = (...shape: number[]) => native.allocateTensor('F32', shape)
    const refuses = (parameter: string, x: NativeTensor, options?: Parameters<typeof matrix.matmul>[1]) =>
      expect(() => matrix.matmul(x, options)).toThrow(expect.objectContaining({ parameter }))
    refuses('x', f32(2, 95))
    refuses('x', native.allocateTensor('I32', [2, 96]))
    refuses('options.bias', f32(2, 96), { bias: f32(6) })
    refuses('options.addTo', f32(2, 96), { addTo: f32(3, 5) })
    expect((await run(matrix.matmul(f32(0, 96)))).shape).toEqual([0, 5])
    matrix.dispose()
    expect(() => matrix.rows).toThrow(expect.objectContaining({ code: 'SLIM_DISPOSED' }))
    expect(() => new native.CudaDevice(7)).toThrow(expect.objectContaining({ parameter: 'index' }))
  })
})
