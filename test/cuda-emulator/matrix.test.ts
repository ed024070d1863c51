// Matrix products of random numbers against sums in float64, and of weights that a kernel unpacks first.
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { decode, encode, formats } from './exact.js'
import { Bench, buffer, buildTimeout, withoutNvcc } from './support.js'

const folder = path.join(path.dirname(fileURLToPath(import.meta.url)), 'kernels')
const count = <T>(n: number, f: (i: number) => T) => Array.from({ length: n }, (_, i) => f(i))

function generator(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

/** Random numbers of many magnitudes, as bits of a format of 16 bits and as the numbers that these are. */
function random(length: number, format: 'f16' | 'bf16', next: () => number) {
  const bits = count(length, () => {
    const wanted = (next() - 0.5) * 2 ** Math.floor(8 * next() - 4)
    return encode({ n: BigInt(Math.round(wanted * 2 ** 30)), e: -30 }, formats[format])
  })
  const numbers = bits.map((x) => {
    const exact = decode(x, formats[format])
    return typeof exact === 'string' ? Number.NaN : Number(exact.n) * 2 ** exact.e
  })
  return { stored: Uint16Array.from(bits, Number), numbers }
}

describe.skipIf(withoutNvcc)('matrix products of random numbers', () => {
  let bench: Bench
  const modules: Record<string, string> = {}
  beforeAll(async () => {
    bench = await Bench.open()
    for (const name of ['execution', 'dequantize'])
      modules[name] = await bench.compile(path.join(folder, `${name}.cu`))
  }, buildTimeout)
  afterAll(() => bench.close())

  const result = async (
    module: string,
    a: NodeJS.ArrayBufferView,
    b: NodeJS.ArrayBufferView,
    launch: string,
  ) => {
    const file = bench.path('y')
    const { outcomes } = await bench.run([
      'device 0',
      `module ${modules[module]}`,
      'allocate y 512',
      ...buffer(bench, 'a', a),
      ...buffer(bench, 'b', b),
      `launch ${launch}`,
      `read y ${file}`,
    ])
    expect(outcomes.filter((o) => o.error !== 0)).toEqual([])
    return readFileSync(file)
  }

  /** Holds y = first + a bᵀ to the roundings that the products' size allows. */
  const expectProduct = (
    y: Buffer,
    a: number[],
    b: number[],
    depth: number,
    roundings: number,
    first = 0,
  ) => {
    for (let i = 0; i < 128; i++) {
      const products = count(depth, (k) => a[(i >> 3) * depth + k]! * b[(i & 7) * depth + k]!)
      const sum = products.reduce((s, x) => s + x, 0) + first
      const size = products.reduce((s, x) => s + Math.abs(x), Math.abs(first))
      expect(Math.abs(y.readFloatLE(4 * i) - sum), `element ${i}`).toBeLessThanOrEqual(
        roundings * 2 ** -24 * size,
      )
    }
  }

  it.each([
    ['mmaHalf16', 16, 'f16'],
    ['mmaHalf8', 8, 'f16'],
    ['mmaBrain16', 16, 'bf16'],
  ] as const)('%s', async (kernel, depth, format) => {
    const next = generator(depth)
    for (let round = 0; round < 4; round++) {
      const a = random(16 * depth, format, next)
      const b = random(8 * depth, format, next)
      const y = await result('execution', a.stored, b.stored, `${kernel} 1 1 1 32 1 1 0 @a @b @y`)
      expectProduct(y, a.numbers, b.numbers, depth, 1, 1)
    }
  })

  it.each([
    ['mmaInt32', 32],
    ['mmaInt16', 16],
  ] as const)('%s', async (kernel, depth) => {
    const next = generator(depth)
    const bytes = (n: number) => Int8Array.from({ length: n }, () => Math.floor(256 * next()) - 128)
    const [a, b] = [bytes(16 * depth), bytes(8 * depth)]
    const y = await result('execution', a, b, `${kernel} 1 1 1 32 1 1 0 @a @b @y`)
    for (let i = 0; i < 128; i++) {
      const products = count(depth, (k) => a[(i >> 3) * depth + k]! * b[(i & 7) * depth + k]!)
      expect(y.readInt32LE(4 * i)).toBe(products.reduce((s, x) => s + x, 1))
    }
  })

  const depth = 96
  const codes = (next: () => number) => count(16 * depth, () => Math.floor(4 * next()))

  it.each([
    ['packedHalf', 'f16'],
    ['packedBrain', 'bf16'],
  ] as const)('%s: codes of two bits become a fragment by LOP3', async (kernel, format) => {
    const next = generator(7)
    const a = codes(next)
    const words = new Uint32Array((depth / 32) * 32)
    a.forEach((code, i) => {
      const [row, k] = [Math.floor(i / depth), i % depth]
      const lane = 4 * (row & 7) + ((k & 7) >> 1)
      const fragment = (row >> 3) + 2 * ((k >> 3) & 1)
      words[(k >> 5) * 32 + lane]! |= code << (2 * (fragment + 4 * ((k >> 4) & 1)) + 16 * (k & 1))
    })
    const x = random(8 * depth, format, next)
    const y = await result('dequantize', words, x.stored, `${kernel} 1 1 1 32 1 1 0 @a @b @y s32:${depth}`)
    expectProduct(y, a, x.numbers, depth, depth / 16)
  })

  it('packedBytes: codes of two bits become bytes', async () => {
    const next = generator(8)
    const a = codes(next)
    const words = new Uint32Array((depth / 32) * 32)
    a.forEach((code, i) => {
      const [row, k] = [Math.floor(i / depth), i % depth]
      const lane = 4 * (row & 7) + ((k & 15) >> 2)
      const fragment = (row >> 3) + 2 * ((k >> 4) & 1)
      words[(k >> 5) * 32 + lane]! |= code << (2 * fragment + 8 * (k & 3))
    })
    const x = Int8Array.from({ length: 8 * depth }, () => Math.floor(256 * next()) - 128)
    const y = await result('dequantize', words, x, `packedBytes 1 1 1 32 1 1 0 @a @b @y s32:${depth}`)
    for (let i = 0; i < 128; i++) {
      const products = count(depth, (k) => a[(i >> 3) * depth + k]! * x[(i & 7) * depth + k]!)
      expect(y.readInt32LE(4 * i)).toBe(products.reduce((s, v) => s + v, 0))
    }
  })
})
