import { afterEach, describe, expect, it } from 'vitest'
import { addon, type PackedCase, run } from '../../lib/native/addon.js'
import { dequantizeParts, type Parts, randomParts, tensorsOf } from '../support/packed.js'
import { normals, uniform } from '../support/random.js'

const native = addon()
const best = native.instructionSet()
afterEach(() => native.setInstructionSet(best))

const CANARY = 12345.5
const EPSILON = 2 ** -24
const SEGMENT = 256

const bitsOf = (groups: number, pick: (group: number) => number) =>
  Uint8Array.from({ length: groups }, (_, g) => pick(g))
const mixed = (seed: number) => (groups: number) => {
  const random = uniform(seed)
  return bitsOf(groups, () => 1 + Math.floor(random() * 8))
}

interface Segment {
  begin: number
  end: number
  scale: number
  sum: number
}

/** x as int8, one scale a segment: a group, or 256 columns of a larger one. */
function quantizeRow(x: Float32Array, groupSize: number) {
  const q = new Int32Array(x.length)
  const segments: Segment[] = []
  for (let group = 0; group < x.length; group += groupSize) {
    const groupEnd = Math.min(x.length, group + groupSize)
    for (let begin = group; begin < groupEnd; begin += SEGMENT) {
      const end = Math.min(groupEnd, begin + SEGMENT)
      const most = x.subarray(begin, end).reduce((m, v) => Math.max(m, Math.abs(v)), 0)
      const lift = most < 2 ** -100 ? 2 ** 100 : 1
      const inverse = most === 0 ? 0 : Math.fround(127 / Math.fround(most * lift))
      let sum = 0
      for (let i = begin; i < end; i++) {
        const value = Math.fround(Math.fround(x[i]! * lift) * inverse)
        const down = Math.floor(value)
        const rest = value - down
        q[i] = rest > 0.5 || (rest === 0.5 && down % 2 !== 0) ? down + 1 : down
        sum += q[i]!
      }
      segments.push({ begin, end, scale: Math.fround(most / 127), sum })
    }
  }
  return { q, segments }
}

/** The weights, and what their parts amount to: |mean| + |scale| at one bit, where both may nearly cancel. */
function weightsOf(parts: Parts) {
  const weights = dequantizeParts(parts)
  const { rows, cols, groupSize, groupBits, scales, offsets } = parts
  const terms = weights.map((weight, i) => {
    const group = Math.floor((i % cols) / groupSize)
    const at = group * rows + Math.floor(i / cols)
    return groupBits[group] === 1 ? Math.abs(scales[at]!) + Math.abs(offsets[at]!) : Math.abs(weight)
  })
  return { weights, terms }
}

/**
 * A row of W times a row of x in float64: of the int8 inputs, as the kernels ought to; of x itself; Σ|w||x|; and the
 * largest difference that rounding x can make, half a step for each input.
 */
function products(
  parts: Parts,
  { weights, terms }: ReturnType<typeof weightsOf>,
  row: number,
  x: Float32Array,
  quantized: ReturnType<typeof quantizeRow>,
) {
  const w = weights.subarray(row * parts.cols, (row + 1) * parts.cols)
  let [integer, exact, magnitude, rounding] = [0, 0, 0, 0]
  for (const { begin, end, scale } of quantized.segments) {
    let [dot, absolute] = [0, 0]
    for (let i = begin; i < end; i++) {
      dot += w[i]! * quantized.q[i]!
      exact += w[i]! * x[i]!
      absolute += Math.abs(w[i]!)
      magnitude += terms[row * parts.cols + i]! * Math.abs(quantized.q[i]!) * scale
    }
    integer += dot * scale
    rounding += absolute * scale * 0.5
  }
  return { integer, exact, magnitude, rounding }
}

interface Problem {
  rows: number
  cols: number
  groupSize: number
  tokens: number
  bits: (groups: number) => Uint8Array
  options?: PackedCase
  bias?: boolean
  threads?: number
  input?: (count: number) => Float32Array
}

async function multiply({
  rows,
  cols,
  groupSize,
  tokens,
  bits,
  options = {},
  bias,
  threads = 2,
  input,
}: Problem) {
  const parts = await randomParts(rows, cols, groupSize, bits(Math.ceil(cols / groupSize)))
  const matrix = new native.PackedMatrix(await tensorsOf(parts))
  const x = input ? input(tokens * cols) : normals(rows + tokens, tokens * cols)
  const stride = rows + 3
  const before = new Float32Array(tokens * stride).fill(CANARY)
  if (options.accumulate) for (let t = 0; t < tokens; t++) before.set(normals(t, rows), t * stride)
  const y = native.tensorFrom(before, 'F32', [tokens, stride])
  const biases = normals(99, rows)
  const product = { matrix, y, ...(bias && { bias: native.tensorFrom(biases, 'F32', [rows]) }) }
  await run(native.packedCase(native.tensorFrom(x, 'F32', [tokens, cols]), [product], options, threads))
  return { parts, x, before, biases, stride, y: y.toFloat32Array(), matrix }
}

/** Both errors over their bounds: of the integer arithmetic, and of the whole product. */
async function errors(problem: Problem) {
  const { rows, cols, groupSize, tokens, options, bias } = problem
  const { parts, x, before, biases, stride, y } = await multiply(problem)
  const weights = weightsOf(parts)
  let [arithmetic, whole] = [0, 0]
  for (let t = 0; t < tokens; t++) {
    const input = x.subarray(t * cols, (t + 1) * cols)
    const quantized = quantizeRow(input, groupSize)
    for (let r = 0; r < stride; r++) {
      const at = t * stride + r
      if (r >= rows) {
        expect(y[at], `row ${r} of ${rows} is outside y`).toBe(CANARY)
        continue
      }
      const added = (options?.accumulate ? before[at]! : 0) + (bias ? biases[r]! : 0)
      const { integer, exact, magnitude, rounding } = products(parts, weights, r, input, quantized)
      // A few roundings for each segment, the rounding of a 1-bit weight in the oracle, and those of the sums.
      const slack = EPSILON * ((6 + 2 * quantized.segments.length) * magnitude + 4 * Math.abs(added)) + 1e-36
      arithmetic = Math.max(arithmetic, Math.abs(y[at]! - integer - added) / slack)
      whole = Math.max(whole, Math.abs(y[at]! - exact - added) / (rounding * (1 + 1e-5) + slack))
      if (Number.isNaN(y[at]!)) arithmetic = Number.NaN
    }
  }
  return { arithmetic, whole }
}

const widths: Problem[] = [1, 2, 3, 4, 5, 6, 7, 8].flatMap((width) =>
  [1, 2, 3, 4, 5, 30].map((tokens) => ({
    rows: 21,
    cols: 200,
    groupSize: 64,
    tokens,
    bits: (groups: number) => bitsOf(groups, () => width),
  })),
)
const shapes: Problem[] = [
  { rows: 1, cols: 1, groupSize: 128, tokens: 1, bits: mixed(1) },
  { rows: 67, cols: 576, groupSize: 128, tokens: 1, bits: mixed(2) },
  { rows: 33, cols: 576, groupSize: 128, tokens: 13, bits: mixed(3) },
  { rows: 16, cols: 1003, groupSize: 32, tokens: 1, bits: mixed(4) },
  { rows: 48, cols: 1003, groupSize: 256, tokens: 25, bits: mixed(5) },
  { rows: 5, cols: 70, groupSize: 7, tokens: 3, bits: mixed(6) },
  { rows: 18, cols: 1300, groupSize: 600, tokens: 1, bits: mixed(7) },
  { rows: 18, cols: 1300, groupSize: 5000, tokens: 9, bits: mixed(8) },
  { rows: 20, cols: 96, groupSize: 32, tokens: 500, bits: mixed(9) },
  { rows: 40, cols: 160, groupSize: 32, tokens: 1, bits: mixed(10), bias: true },
  {
    rows: 40,
    cols: 160,
    groupSize: 32,
    tokens: 7,
    bits: mixed(11),
    bias: true,
    options: { accumulate: true },
  },
  { rows: 40, cols: 160, groupSize: 32, tokens: 2, bits: mixed(12), options: { accumulate: true } },
]

const random = uniform(5)
const upTo = (limit: number) => 1 + Math.floor(random() * limit)
const randomProblems: Problem[] = Array.from({ length: 67 }, (_, i) => ({
  rows: i + 1,
  cols: upTo(700),
  groupSize: [32, 64, 128, 256, upTo(300)][i % 5]!,
  tokens: [1, 1, 2, 4, upTo(30)][upTo(5) - 1]!,
  bits: mixed(100 + i),
}))

/** All products have these inputs in every segment of 32. */
const extremes: [string, (count: number) => Float32Array][] = [
  ['zeros', (n) => new Float32Array(n)],
  ['one value', (n) => new Float32Array(n).fill(-0.37)],
  [
    'the largest products of every sign',
    (n) => Float32Array.from({ length: n }, (_, i) => (i & 64 ? -1 : 1)),
  ],
  ['one huge outlier', (n) => normals(8, n).map((v, i) => (i % 97 === 3 ? 3e30 : v))],
  ['denormals', (n) => normals(9, n).map((v) => v * 1e-41)],
  ['tiny and huge', (n) => normals(10, n).map((v, i) => v * (Math.floor(i / 32) % 2 ? 1e-35 : 1e33))],
]

describe.each(native.instructionSets())('packed products, %s', (set) => {
  it('are those of int8 inputs, with an error of at most half a step of each', async () => {
    native.setInstructionSet(set)
    for (const problem of [...widths, ...shapes, ...randomProblems]) {
      const { rows, cols, groupSize, tokens } = problem
      const name = `${rows} × ${cols} in ${groupSize}, ${tokens} tokens, ${problem.bits(3)} bits`
      const { arithmetic, whole } = await errors(problem)
      expect(arithmetic, name).toBeLessThanOrEqual(1)
      expect(whole, name).toBeLessThanOrEqual(1)
    }
  }, 60_000)

  it.each(extremes)('hold for %s', async (_, input) => {
    native.setInstructionSet(set)
    for (const tokens of [1, 3, 8])
      for (const bits of [
        mixed(tokens),
        ...[1, 2, 3, 4, 8].map((b) => (groups: number) => bitsOf(groups, () => b)),
      ]) {
        const { arithmetic, whole } = await errors({
          rows: 19,
          cols: 520,
          groupSize: 256,
          tokens,
          bits,
          input,
        })
        expect(arithmetic).toBeLessThanOrEqual(1)
        expect(whole).toBeLessThanOrEqual(1)
      }
  })

  it('are the same with any number of threads, in any company', async () => {
    native.setInstructionSet(set)
    const shape = { cols: 640, groupSize: 128, bits: mixed(3) }
    for (const tokens of [1, 40]) {
      const problem = { ...shape, rows: 1000, tokens }
      const once = (await multiply({ ...problem, threads: 1 })).y
      expect((await multiply({ ...problem, threads: 3 })).y).toEqual(once)
    }
    const { x, y, matrix, stride } = await multiply({ ...shape, rows: 50, tokens: 30 })
    for (const [first, count] of [
      [0, 1],
      [7, 2],
      [11, 5],
      [13, 17],
    ] as const) {
      const some = native.allocateTensor('F32', [count, stride])
      const part = native.tensorFrom(x.slice(first * 640, (first + count) * 640), 'F32', [count, 640])
      await run(native.packedCase(part, [{ matrix, y: some }], {}, 2))
      const actual = some.toFloat32Array()
      for (let t = 0; t < count; t++)
        expect(actual.slice(t * stride, t * stride + 50)).toEqual(
          y.slice((first + t) * stride, (first + t) * stride + 50),
        )
    }
  })

  it('of several matrices on one input are those of each', async () => {
    native.setInstructionSet(set)
    const matrices = await Promise.all(
      [300, 17, 64, 33, 16, 90].map(
        async (rows) =>
          new native.PackedMatrix(await tensorsOf(await randomParts(rows, 320, 64, mixed(rows)(5)))),
      ),
    )
    const x = native.tensorFrom(normals(1, 2 * 320), 'F32', [2, 320])
    const outputs = () =>
      matrices.map((matrix) => ({ matrix, y: native.allocateTensor('F32', [2, matrix.rows]) }))
    const [together, alone] = [outputs(), outputs()]
    await run(native.packedCase(x, together, {}, 2))
    for (const product of alone) await run(native.packedCase(x, [product], {}, 1))
    expect(together.map(({ y }) => y.toFloat32Array())).toEqual(alone.map(({ y }) => y.toFloat32Array()))
  })

  it('become NaN where the input is not finite, and only there', async () => {
    native.setInstructionSet(set)
    for (const tokens of [3, 14])
      for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
        const input = (n: number) => normals(2, n).map((v, i) => (i === 100 + 50 ? value : v))
        const { y, stride } = await multiply({
          rows: 9,
          cols: 100,
          groupSize: 32,
          tokens,
          bits: mixed(5),
          input,
        })
        for (let t = 0; t < tokens; t++)
          for (let r = 0; r < 9; r++) expect(Number.isNaN(y[t * stride + r]!), `token ${t}`).toBe(t === 1)
      }
  })
})

const hasAvx512 = native.instructionSets().includes('avx512')
if (!hasAvx512) console.warn('skipped: the AVX-512 kernels, which this processor cannot run')
it.skipIf(!hasAvx512)('are the same with AVX2 and AVX-512', async () => {
  for (const tokens of [1, 3, 20]) {
    const problem = { rows: 35, cols: 700, groupSize: 64, tokens, bits: mixed(tokens), bias: true }
    native.setInstructionSet('avx512')
    const { y } = await multiply(problem)
    native.setInstructionSet('avx2')
    expect((await multiply(problem)).y).toEqual(y)
  }
})

it('asks for inputs and outputs that fit', async () => {
  const make = async (groupSize: number) =>
    new native.PackedMatrix(
      await tensorsOf(await randomParts(4, 96, groupSize, mixed(1)(Math.ceil(96 / groupSize)))),
    )
  const [matrix, other] = [await make(32), await make(64)]
  const f32 = (...shape: number[]) => native.allocateTensor('F32', shape)
  const y = f32(2, 4)
  const refuses = (
    parameter: string,
    x: ReturnType<typeof f32>,
    ...products: Parameters<typeof native.packedCase>[1]
  ) => expect(() => native.packedCase(x, products, {}, 1)).toThrow(expect.objectContaining({ parameter }))
  refuses('x', f32(2, 95), { matrix, y })
  refuses('products[0].y', f32(3, 96), { matrix, y })
  refuses('products[0].bias', f32(2, 96), { matrix, y, bias: f32(5) })
  refuses('products', f32(2, 96), { matrix, y }, { matrix: other, y })
})

it('reaches int8 and float32 activations through matmul, and keeps to float64 as each can', async () => {
  const [rows, cols, tokens] = [40, 1000, 6]
  const parts = await randomParts(rows, cols, 128, new Uint8Array(8).fill(2))
  const weights = dequantizeParts(parts)
  const matrix = new native.PackedMatrix(await tensorsOf(parts))
  const x = normals(3, tokens * cols)
  const relative = async (activations: 'int8' | 'float32') => {
    const y = await run(matrix.matmul(native.tensorFrom(x, 'F32', [tokens, cols]), 2, activations))
    let [error, norm] = [0, 0]
    y.toFloat32Array().forEach((value, i) => {
      const [t, r] = [Math.floor(i / rows), i % rows]
      let exact = 0
      for (let k = 0; k < cols; k++) exact += weights[r * cols + k]! * x[t * cols + k]!
      error += (value - exact) ** 2
      norm += exact ** 2
    })
    return Math.sqrt(error / norm)
  }
  // Normal inputs reach 2.7 standard deviations in 128: a step of 0.021, an error of 0.021 / √12 = 0.6 %.
  expect(await relative('int8')).toBeLessThan(0.008)
  expect(await relative('int8')).toBeGreaterThan(0.003)
  expect(await relative('float32')).toBeLessThan(1e-6)
  // @ts-expect-error
  expect(() => matrix.matmul(native.tensorFrom(x, 'F32', [tokens, cols]), 1, 'int4')).toThrow(
    expect.objectContaining({ parameter: 'activations' }),
  )
})
