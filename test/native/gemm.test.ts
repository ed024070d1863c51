import { afterEach, describe, expect, it } from 'vitest'
import {
  addon,
  type DType,
  type GemmCase,
  type GemmOperand,
  type NativeTensor,
  run,
} from '../../lib/native/addon.js'

const native = addon()
const best = native.instructionSet()
const sets = native.instructionSets()

afterEach(() => native.setInstructionSet(best))

/** Mulberry32: uniform in [0, 1). */
function generator(seed: number) {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

const random = generator(1)
const pick = <T>(values: readonly T[]) => values[Math.floor(random() * values.length)]!
const upTo = (limit: number) => 1 + Math.floor(random() * limit)

const BLOCK_BYTES: Partial<Record<DType, number>> = { Q8_0: 34, Q4_0: 18, Q4_1: 20 }

/** A tensor of random values; a GGUF block gets random codes and scales (and minima) near 1/64. */
async function randomTensor(dtype: DType, rows: number, cols: number): Promise<NativeTensor> {
  const blockBytes = BLOCK_BYTES[dtype]
  if (blockBytes) {
    const bytes = Uint8Array.from({ length: (rows * cols * blockBytes) / 32 }, () => random() * 256)
    for (let block = 0; block < bytes.length; block += blockBytes) {
      bytes[block + 1] = 0x24
      if (dtype === 'Q4_1') bytes[block + 3] = 0xa4
    }
    return native.tensorFrom(bytes, dtype, [rows, cols])
  }
  const values = Float32Array.from({ length: rows * cols }, () => random() * 2 - 1)
  const tensor = native.tensorFrom(values, 'F32', [rows, cols])
  return dtype === 'F16' || dtype === 'BF16' ? run(native.convertTensor(tensor, dtype, 1)) : tensor
}

const magnitudes = (tensor: NativeTensor) =>
  native.tensorFrom(tensor.toFloat32Array().map(Math.abs), 'F32', tensor.shape)

const CANARY = 12345.5

/** An operand of rows × k, in a tensor that is sometimes larger. */
async function randomOperand(rows: number, k: number, layout: GemmOperand['layout'], dtype: DType) {
  const extra = pick([0, 0, 3])
  const blocked = dtype in BLOCK_BYTES
  const tensor =
    layout === 'columns'
      ? await randomTensor('F32', k, rows + extra)
      : await randomTensor(dtype, rows, blocked ? Math.ceil(k / 32) * 32 : k + extra)
  return { tensor, layout }
}

/**
 * Largest error over its bound. Rounding errors of a sum of k products are at most k·2⁻²⁴·Σ|a||b| and grow like √k when
 * they are independent; 4 + 2√k leaves room for neither a lost nor a doubled term at these sizes.
 */
async function worstError(shape: GemmCase, initial: Float32Array, cols: number, threads: number) {
  const { m, n, k, alpha = 1 } = shape
  const c = native.tensorFrom(initial, 'F32', [m, cols])
  await run(native.gemmCase(c, shape, threads))
  const oracle = native.tensorFrom(initial, 'F32', [m, cols])
  await run(native.gemmCase(oracle, { ...shape, reference: true }, 1))
  const sums = native.tensorFrom(new Float32Array(m * cols), 'F32', [m, cols])
  const absolute = {
    a: { ...shape.a, tensor: magnitudes(shape.a.tensor) },
    b: { ...shape.b, tensor: magnitudes(shape.b.tensor) },
  }
  await run(native.gemmCase(sums, { m, n, k, ...absolute, reference: true }, 1))
  const [actual, expected, sum] = [c, oracle, sums].map((t) => t.toFloat32Array()) as [
    Float32Array,
    Float32Array,
    Float32Array,
  ]
  let worst = 0
  for (let i = 0; i < m; i++)
    for (let j = 0; j < cols; j++) {
      const at = i * cols + j
      if (j >= n) expect(actual[at], `column ${j} of ${n} is outside C`).toBe(CANARY)
      else if (!shape.upperOnly || j >= i) {
        const scale = Math.abs(alpha) * sum[at]! * (4 + 2 * Math.sqrt(k)) + 2 * Math.abs(initial[at]!)
        const error = Math.abs(actual[at]! - expected[at]!) / (2 ** -24 * scale + 1e-30)
        if (!(error <= worst)) worst = error
      }
    }
  return { worst, c: actual }
}

const LAYOUTS = ['rows', 'rows', 'columns', 'reader'] as const
const DTYPES = ['F32', 'F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_1'] as const

async function randomCase(m: number, n: number, k: number) {
  const upperOnly = m === n && random() < 0.5
  const cols = n + pick([0, 5])
  const shape: GemmCase = {
    m,
    n,
    k,
    a: await randomOperand(m, k, pick(LAYOUTS), pick(DTYPES)),
    b: await randomOperand(n, k, pick(LAYOUTS), pick(DTYPES)),
    alpha: pick([1, 1, -0.37]),
    accumulate: random() < 0.5,
    upperOnly,
  }
  const initial = new Float32Array(m * cols).fill(CANARY)
  for (let i = 0; i < m; i++) for (let j = 0; j < n; j++) initial[i * cols + j] = random() * 2 - 1
  return { shape, initial, cols }
}

const label = ({ m, n, k, a, b, alpha, accumulate, upperOnly }: GemmCase) =>
  `${m} × ${n} × ${k}, a ${a.tensor.dtype} ${a.layout}, b ${b.tensor.dtype} ${b.layout}, ` +
  `alpha ${alpha}${accumulate ? ', accumulate' : ''}${upperOnly ? ', upper only' : ''}`

describe.each(sets)('gemm with %s', (set) => {
  it('agrees with plain loops over odd shapes, layouts, types and options', async () => {
    native.setInstructionSet(set)
    for (let trial = 0; trial < 250; trial++) {
      const m = upTo(pick([4, 13, 67]))
      const { shape, initial, cols } = await randomCase(m, pick([m, upTo(67)]), upTo(67))
      const { worst } = await worstError(shape, initial, cols, 1 + (trial % 2))
      expect(worst, label(shape)).toBeLessThanOrEqual(1)
    }
  })

  it.each([
    [203, 331, 1187],
    [97, 97, 385],
    [5, 517, 2081],
    [3, 130, 4100],
    [130, 4133, 40],
    [3100, 33, 65],
  ])('agrees with plain loops and is the same with any number of threads: %i × %i × %i', async (m, n, k) => {
    native.setInstructionSet(set)
    for (let trial = 0; trial < 3; trial++) {
      const { shape, initial, cols } = await randomCase(m, n, k)
      const one = await worstError(shape, initial, cols, 1)
      expect(one.worst, label(shape)).toBeLessThanOrEqual(1)
      for (const threads of [2, 3]) {
        const c = native.tensorFrom(initial, 'F32', [m, cols])
        await run(native.gemmCase(c, shape, threads))
        expect(Buffer.compare(c.toBytes(), Buffer.from(one.c.buffer)), label(shape)).toBe(0)
      }
    }
  })

  it('leaves C alone or clears it when there is nothing to sum', async () => {
    native.setInstructionSet(set)
    const a = { tensor: await randomTensor('F32', 3, 8), layout: 'rows' } as const
    const filled = () => native.tensorFrom(new Float32Array(9).fill(7), 'F32', [3, 3])
    const outcome = async (m: number, n: number, k: number, accumulate: boolean) => {
      const c = filled()
      await run(native.gemmCase(c, { m, n, k, a, b: a, accumulate }, 2))
      return [...new Set(c.toFloat32Array())]
    }
    expect(await outcome(3, 3, 0, false)).toEqual([0])
    expect(await outcome(3, 3, 0, true)).toEqual([7])
    expect(await outcome(0, 3, 8, false)).toEqual([7])
    expect(await outcome(3, 0, 8, false)).toEqual([7])
  })

  it('skips tiles below the diagonal when only the upper triangle is asked for', async () => {
    native.setInstructionSet(set)
    const a = { tensor: await randomTensor('F32', 50, 400), layout: 'columns' } as const
    const c = native.tensorFrom(new Float32Array(400 * 400).fill(CANARY), 'F32', [400, 400])
    await run(native.gemmCase(c, { m: 400, n: 400, k: 50, a, b: a, upperOnly: true }, 2))
    const values = c.toFloat32Array()
    for (let i = 100; i < 400; i++)
      for (let j = 0; j < 400; j++) {
        if (j < i - 64) expect(values[i * 400 + j]).toBe(CANARY)
        if (j >= i) expect(values[i * 400 + j]).not.toBe(CANARY)
      }
  })

  it('gives infinities and NaN their due', async () => {
    native.setInstructionSet(set)
    for (const rows of [1, 20]) {
      const values = new Float32Array(rows * 40).fill(1)
      values[7] = Number.POSITIVE_INFINITY
      const a = native.tensorFrom(values, 'F32', [rows, 40])
      const b = native.tensorFrom(
        new Float32Array(20 * 40).fill(0.5).fill(Number.NaN, 40, 41),
        'F32',
        [20, 40],
      )
      const c = (await run(native.matmul(a, b, 2))).toFloat32Array()
      expect([c[0], c[1], c[2]]).toEqual([Number.POSITIVE_INFINITY, Number.NaN, Number.POSITIVE_INFINITY])
      if (rows > 1) expect([c[20], c[21], c[22]]).toEqual([20, Number.NaN, 20])
    }
  })
})

describe('gemm', () => {
  it('runs inside a loop of its own thread pool', async () => {
    const { shape, initial, cols } = await randomCase(40, 50, 60)
    const batch = 9
    const alone = native.tensorFrom(initial, 'F32', [40, cols])
    await run(native.gemmCase(alone, shape, 2))
    const all = new Float32Array(batch * initial.length)
    for (let i = 0; i < batch; i++) all.set(initial, i * initial.length)
    const c = native.tensorFrom(all, 'F32', [batch * 40, cols])
    await run(native.gemmCase(c, { ...shape, batch }, 2))
    const bytes = Buffer.from(c.toBytes())
    for (let i = 0; i < batch; i++)
      expect(
        bytes.subarray(i * initial.length * 4, (i + 1) * initial.length * 4).equals(alone.toBytes()),
      ).toBe(true)
  })

  it('serves many concurrent callers of one pool, busy or after a pause', async () => {
    const a = await randomTensor('F32', 33, 70)
    const b = await randomTensor('BF16', 45, 70)
    const expected = (await run(native.matmul(a, b, 1))).toBytes()
    for (let round = 0; round < 40; round++) {
      const results = await Promise.all(
        Array.from({ length: 8 }, (_, i) => run(native.matmul(a, b, 2 + (i % 2)))),
      )
      for (const c of results) expect(Buffer.compare(c.toBytes(), expected)).toBe(0)
      if (round % 8 === 0) await new Promise((resolve) => setTimeout(resolve, 3))
    }
  })

  it('says what is wrong with its arguments', async () => {
    const a = await randomTensor('F32', 3, 8)
    const b = await randomTensor('F32', 3, 9)
    const ints = native.tensorFrom(new Int32Array(8), 'I32', [1, 8])
    expect(() => native.matmul(a, b, 1)).toThrow(
      'Expected rows of 8 elements, as a has for b but received F32 [3, 9]',
    )
    expect(() => native.matmul(ints, a, 1)).toThrow(/matrix of F32.* for a but received I32 \[1, 8\]/)
    expect(() => native.matmul(a, a, 0)).toThrow(/whole number from 1 up for threads but received 0/)
    expect(() => native.setInstructionSet('mmx' as never)).toThrow(
      /portable.* on this processor for name.*"mmx"/,
    )
  })
})
