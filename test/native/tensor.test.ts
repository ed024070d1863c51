import { afterEach, describe, expect, it } from 'vitest'
import { addon, type DType, type FloatDType, type NativeTensor, run } from '../../lib/native/addon.js'

const native = addon()
const best = native.instructionSet()

afterEach(() => native.setInstructionSet(best))

/** The value of a 16-bit float by its definition, in float64. */
function value16(bits: number, exponentBits: number): number {
  const mantissaBits = 15 - exponentBits
  const sign = bits >> 15 ? -1 : 1
  const exponent = (bits >> mantissaBits) & (2 ** exponentBits - 1)
  const fraction = (bits & (2 ** mantissaBits - 1)) / 2 ** mantissaBits
  const bias = 2 ** (exponentBits - 1) - 1
  if (exponent === 2 ** exponentBits - 1) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return exponent ? sign * (1 + fraction) * 2 ** (exponent - bias) : sign * fraction * 2 ** (1 - bias)
}

const EXPONENT_BITS = { F16: 5, BF16: 8 } as const

/** All non-negative finite values in order: index = bits. Past the end comes what would be the next, for rounding. */
function ladder(dtype: 'F16' | 'BF16'): Float64Array {
  const exponentBits = EXPONENT_BITS[dtype]
  const infinity = (2 ** exponentBits - 1) << (15 - exponentBits)
  return Float64Array.from({ length: infinity + 1 }, (_, bits) =>
    bits < infinity ? value16(bits, exponentBits) : 2 ** (2 ** (exponentBits - 1)),
  )
}

/** Bits of the nearest, ties to the even one, by search on the ladder (float64 holds all the values exactly). */
function nearest(x: number, values: Float64Array): number {
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0
  const magnitude = Math.abs(x)
  let low = 0
  let high = values.length - 1
  if (magnitude >= values[high]!) return sign | high
  while (high - low > 1) {
    const middle = (low + high) >> 1
    if (values[middle]! <= magnitude) low = middle
    else high = middle
  }
  const below = magnitude - values[low]!
  const above = values[high]! - magnitude
  const up = below > above || (below === above && (low & 1) === 1)
  return sign | (up ? high : low)
}

const bitsOf = (tensor: NativeTensor) => new Uint16Array(tensor.toBytes().slice().buffer)

describe.each(native.instructionSets())('16-bit floats with %s', (set) => {
  it.each(['F16', 'BF16'] as const)('reads all 65536 values of %s', async (dtype) => {
    native.setInstructionSet(set)
    const all = Uint16Array.from({ length: 65536 }, (_, i) => i)
    const floats = native.tensorFrom(all, dtype, [65536]).toFloat32Array()
    for (let i = 0; i < 65536; i++)
      if (!Object.is(floats[i], Math.fround(value16(i, EXPONENT_BITS[dtype]))))
        expect(floats[i], `0x${i.toString(16)}`).toBe(value16(i, EXPONENT_BITS[dtype]))
  })

  it.each(['F16', 'BF16'] as const)('rounds to the nearest %s, ties to even', async (dtype) => {
    native.setInstructionSet(set)
    const values = ladder(dtype)
    const inputs: number[] = [
      0,
      -0,
      Number.POSITIVE_INFINITY,
      Number.NEGATIVE_INFINITY,
      3e38,
      -3e38,
      1e-45,
      65519.99,
      65520,
    ]
    const word = new Uint32Array(1)
    const float = new Float32Array(word.buffer)
    for (let i = 0; i + 1 < values.length; i++) {
      // Each value, the tie above it, and the floats next to the tie.
      float[0] = (values[i]! + values[i + 1]!) / 2
      inputs.push(values[i]!, -values[i]!, float[0], -float[0])
      word[0]! += 1
      inputs.push(float[0])
      word[0]! -= 2
      inputs.push(-float[0])
    }
    const source = Float32Array.from(inputs)
    const tensor = native.tensorFrom(source, 'F32', [source.length])
    const actual = bitsOf(await run(native.convertTensor(tensor, dtype, 2)))
    for (let i = 0; i < source.length; i++) {
      const expected = nearest(source[i]!, values)
      if (actual[i] !== expected) expect(actual[i], `${source[i]}`).toBe(expected)
    }
  })

  it.each(['F16', 'BF16'] as const)('keeps NaN through %s and its neighbours intact', async (dtype) => {
    native.setInstructionSet(set)
    for (const length of [1, 7, 8, 9, 33]) {
      const source = new Float32Array(length).fill(1.5)
      source[length - 1] = Number.NaN
      const tensor = native.tensorFrom(source, 'F32', [length])
      const back = (await run(native.convertTensor(tensor, dtype, 1))).toFloat32Array()
      expect([...back]).toEqual([...source])
    }
  })
})

/** A GGUF block of 32 by the format's definition (zeros without their sign). */
function decodeBlock(dtype: DType, block: Uint8Array): Float32Array {
  const half = (at: number) => value16(block[at]! | (block[at + 1]! << 8), 5)
  const scale = half(0)
  return Float32Array.from({ length: 32 }, (_, i) => {
    if (dtype === 'Q8_0') return ((block[2 + i]! << 24) >> 24) * scale + 0
    const codes = dtype === 'Q4_1' ? 4 : 2
    const code = i < 16 ? block[codes + i]! & 15 : block[codes + i - 16]! >> 4
    return dtype === 'Q4_1' ? Math.fround(code * scale) + half(2) : (code - 8) * scale + 0
  })
}

const unsigned = (tensor: NativeTensor) => [...tensor.toFloat32Array()].map((x) => x + 0)

describe.each(native.instructionSets())('GGUF blocks with %s', (set) => {
  it.each([
    ['Q8_0', 34],
    ['Q4_0', 18],
    ['Q4_1', 20],
  ] as const)('decodes %s', async (dtype, blockBytes) => {
    native.setInstructionSet(set)
    const blocks = 3 * 5
    const bytes = Uint8Array.from({ length: blocks * blockBytes }, (_, i) => (i * 2654435761) >>> 13)
    // Scales and minima that are finite: the exponent's top bit stays clear.
    for (let at = 0; at < bytes.length; at += blockBytes) {
      bytes[at + 1]! &= 0xbf
      if (dtype === 'Q4_1') bytes[at + 3]! &= 0xbf
    }
    const tensor = native.tensorFrom(bytes, dtype, [3, 5 * 32])
    const expected = new Float32Array(blocks * 32)
    for (let b = 0; b < blocks; b++)
      expected.set(decodeBlock(dtype, bytes.subarray(b * blockBytes, (b + 1) * blockBytes)), b * 32)
    expect(unsigned(tensor)).toEqual([...expected])
    expect(unsigned(await run(native.convertTensor(tensor, 'F32', 2)))).toEqual([...expected])
  })
})

describe('convertTensor', () => {
  it.each(['F32', 'F16', 'BF16'] as FloatDType[])(
    'gives the same %s with every instruction set',
    async (dtype) => {
      const source = Float32Array.from({ length: 7 * 1061 }, (_, i) => Math.tan(i) * 10 ** ((i % 23) - 11))
      const tensor = native.tensorFrom(source, 'F32', [7, 1061])
      const results: Uint8Array[] = []
      for (const set of native.instructionSets()) {
        native.setInstructionSet(set)
        results.push((await run(native.convertTensor(tensor, dtype, 2))).toBytes())
      }
      for (const bytes of results) expect(Buffer.compare(bytes, results[0]!)).toBe(0)
    },
  )
})

describe('unpermuteRotaryRows', () => {
  it.each(['F32', 'Q8_0'] as const)('brings interleaved rows of %s back to halves', async (dtype) => {
    const [heads, half, cols] = [3, 4, 32]
    const rowBytes = dtype === 'F32' ? cols * 4 : 34
    const bytes = Uint8Array.from({ length: heads * 2 * half * rowBytes }, (_, i) => (i * 2654435761) >>> 13)
    const tensor = native.tensorFrom(bytes, dtype, [heads * 2 * half, cols])
    const expected = new Uint8Array(bytes.length)
    for (let h = 0; h < heads; h++)
      for (let i = 0; i < half; i++)
        for (let j = 0; j < 2; j++) {
          const from = (h * half + i) * 2 + j
          const row = bytes.subarray(from * rowBytes, (from + 1) * rowBytes)
          expected.set(row, ((h * 2 + j) * half + i) * rowBytes)
        }
    for (const threads of [1, 2])
      expect((await run(native.unpermuteRotaryRows(tensor, heads, threads))).toBytes()).toEqual(expected)
    await expect(run(native.unpermuteRotaryRows(tensor, 5, 1))).rejects.toMatchObject({ parameter: 'heads' })
  })
})
