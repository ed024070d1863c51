import { beforeAll, describe, expect, it } from 'vitest'
import {
  type Activations,
  addon,
  type CacheDType,
  type LinearRole,
  type NativeDecoderModel,
  type NativeKvCache,
  type NativeSampler,
  type NativeTensor,
  run,
} from '../../../lib/native/addon.js'
import { FAMILIES, largestDifference, loadFixture, randomIds, randomTensor } from '../../support/decoder.js'
import { randomBlock } from '../../support/random_block.js'
import { logprobs, logSoftmax, makeSampler, stepLogprobs } from '../../support/step.js'

const VOCAB = 97
const DTYPES: CacheDType[] = ['F16', 'I8', 'F32']

/** Two blocks like a family's, with random weights, packed if `activations` are given. */
async function randomModel(family: string, activations?: Activations): Promise<NativeDecoderModel> {
  const { DecoderBlock, DecoderModel, fitGroups } = addon()
  const { spec, weights } = randomBlock(family)
  const pack = async (matrix: NativeTensor) => {
    const groupBits = new Uint8Array(Math.ceil(matrix.shape[1]! / 16)).fill(4)
    return run(fitGroups(matrix, groupBits, { groupSize: 16, quantizer: 'minmax' }, 1))
  }
  const linears = { ...weights.linears }
  const embedding = randomTensor([VOCAB, spec.hiddenSize], 5)
  if (activations)
    for (const [role, { weight, bias }] of Object.entries(linears))
      linears[role as LinearRole] = { weight: await pack(weight as NativeTensor), bias }
  const block = new DecoderBlock(spec, { ...weights, linears })
  const head = activations ? await pack(embedding) : embedding
  return new DecoderModel({
    embedding,
    embeddingScale: 1,
    head,
    logitSoftcap: 0,
    activations,
    blocks: [block, block],
  })
}

/** Steps one sequence alone, `counts` tokens at a time; ln p after each. */
async function alone(
  model: NativeDecoderModel,
  ids: Int32Array,
  counts: number[],
  dtype?: CacheDType,
  threads = 2,
) {
  const cache = model.cache(ids.length, dtype)
  const rows: Float64Array[] = []
  let done = 0
  for (const count of counts) {
    rows.push(await stepLogprobs(model, cache, ids.subarray(done, done + count), VOCAB, threads))
    done += count
  }
  cache.dispose()
  return rows
}

describe.each(addon().instructionSets())('steps with %s', (instructionSet) => {
  beforeAll(() => addon().setInstructionSet(instructionSet))

  it.each(['like LLaMA', 'like Gemma 2', 'like GPT-NeoX'] as const)(
    '%s: an F32 cache gives the full pass',
    async (family) => {
      const model = await randomModel(family)
      const ids = randomIds(700, VOCAB, 1) // two slices of the softmax, six pages
      const logits = await run(model.logits(ids, 2))
      for (const counts of [[700], [1, 127, 1, 383, 1, 100, 87], [511, 1, 1, 187]]) {
        const rows = await alone(model, ids, counts, 'F32')
        let done = 0
        for (const [i, count] of counts.entries()) {
          done += count
          const expected = logSoftmax(logits.subarray((done - 1) * VOCAB, done * VOCAB))
          expect(largestDifference(rows[i]!, expected)).toBeLessThan(1e-4)
        }
      }
    },
  )

  it.each(DTYPES)('a cache of %s: the same bits with 1 and 3 threads', async (dtype) => {
    const model = await randomModel('like Gemma 2')
    const ids = randomIds(1200, VOCAB, 2)
    const [one, three] = [1, 3].map((threads) => alone(model, ids, [530, 1, 600, 1, 1, 67], dtype, threads))
    expect(await three).toEqual(await one)
  })

  it.each(DTYPES)('a cache of %s, int8 activations: batched is what each is alone', async (dtype) => {
    const model = await randomModel('like LLaMA', 'int8')
    const lengths = [5, 140, 33, 1, 700]
    const prompts = lengths.map((length, i) => randomIds(length + 3, VOCAB, i))
    const expected = await Promise.all(
      prompts.map((ids, i) => alone(model, ids, [lengths[i]!, 1, 1, 1], dtype)),
    )
    const caches = prompts.map((ids) => model.cache(ids.length, dtype))
    const samplers = prompts.map(() => makeSampler({ topLogprobs: VOCAB }))
    const done = prompts.map(() => 0)
    for (let round = 0; round < 4; round++) {
      const sequences = prompts.map((ids, i) => {
        const end = lengths[i]! + round
        const part = { cache: caches[i]!, ids: ids.subarray(done[i], end), sampler: samplers[i]! }
        done[i] = end
        return part
      })
      const tokens = await run(model.step(sequences, 2))
      // AVX2's kernels sum up the segments of one token in another order than those of several.
      const bound = instructionSet === 'avx2' ? 1e-4 : 0
      tokens.forEach((token, i) => {
        expect(largestDifference(logprobs(token!), expected[i]![round]!)).toBeLessThanOrEqual(bound)
      })
    }
  })
})

describe('a step', () => {
  let model: NativeDecoderModel
  beforeAll(async () => {
    model = await randomModel('like LLaMA', 'int8')
  })

  it('draws for the sequences with a sampler alone, greedily the likeliest', async () => {
    const ids = randomIds(9, VOCAB, 3)
    const [a, b] = [model.cache(20), model.cache(20)]
    const tokens = await run(
      model.step(
        [
          { cache: a, ids },
          { cache: b, ids, sampler: makeSampler({ topLogprobs: 1 }) },
        ],
        2,
      ),
    )
    expect(tokens[0]).toBeNull()
    expect(tokens[1]!.tokenId).toBe(tokens[1]!.top[0]!.tokenId)
    expect([a.length, b.length]).toEqual([9, 9])
  })

  it('runs beside another on other caches', async () => {
    const ids = randomIds(300, VOCAB, 4)
    const [expected] = await alone(model, ids, [300])
    const all = await Promise.all([1, 2, 3, 4].map(() => alone(model, ids, [300])))
    for (const [row] of all) expect(row).toEqual(expected)
  })

  it('leaves cache and sampler as they were when it is aborted or fails', async () => {
    const ids = randomIds(1500, VOCAB, 5)
    const cache = model.cache(4000)
    const options = { temperature: 1, seed: 3 }
    const sampler = makeSampler(options)
    await run(model.step([{ cache, ids: ids.subarray(0, 10) }], 2))
    const job = model.step([{ cache, ids, sampler }], 1)
    job.cancel()
    await expect(run(job)).rejects.toMatchObject({ code: 'SLIM_ABORTED' })
    const bad = model.step(
      [
        { cache, ids: Int32Array.of(5) },
        { cache: model.cache(4), ids: Int32Array.of(VOCAB) },
      ],
      1,
    )
    await expect(run(bad)).rejects.toMatchObject({ parameter: 'sequences[1].ids[0]' })
    expect(cache.length).toBe(10)
    const fresh = model.cache(4000)
    await run(model.step([{ cache: fresh, ids: ids.subarray(0, 10) }], 2))
    const next = (c: NativeKvCache, s: NativeSampler) =>
      run(model.step([{ cache: c, ids: ids.subarray(10, 200), sampler: s }], 2))
    expect(await next(cache, sampler)).toEqual(await next(fresh, makeSampler(options)))
  })

  it('names what it cannot draw from', async () => {
    const { embedding, blocks, spec } = await loadFixture('llama')
    const head = addon().tensorFrom(new Float32Array(64 * 8).fill(Number.NaN), 'F32', [8, 64])
    const small = addon().tensorFrom(new Float32Array(64 * 8).fill(1), 'F32', [8, 64])
    expect(spec.hiddenSize).toBe(64)
    const broken = new (addon().DecoderModel)({
      ...embedding,
      embedding: small,
      blocks,
      head,
      logitSoftcap: 0,
    })
    const cache = broken.cache(4)
    const job = broken.step([{ cache, ids: Int32Array.of(1), sampler: makeSampler() }], 1)
    await expect(run(job)).rejects.toMatchObject({ code: 'SLIM_NON_FINITE', parameter: 'sequences[0]' })
    expect(cache.length).toBe(0)
  })

  it('says which sequence is wrong, and how', async () => {
    const cache = model.cache(4)
    const ids = Int32Array.of(1, 2, 3)
    const one = (sequence: object) => () => model.step([sequence as never], 1)
    await expect(run(model.step([], 1))).rejects.toMatchObject({ parameter: 'sequences' })
    await expect(run(model.step([{ cache, ids: new Int32Array(0) }], 1))).rejects.toMatchObject({
      parameter: 'sequences[0].ids',
    })
    await run(model.step([{ cache, ids }], 1))
    await expect(run(model.step([{ cache, ids }], 1))).rejects.toThrow(/at most 1 token ids .*holds 3 of 4/)
    expect(one({ ids })).toThrow(/cache of this model .*for sequences\[0\]\.cache/)
    expect(one({ cache, ids: [1] })).toThrow(/sequences\[0\]\.ids/)
    expect(one({ cache, ids, sampler: {} })).toThrow(/sequences\[0\]\.sampler/)
    const foreign = (await randomModel('like LLaMA')).cache(4)
    expect(one({ cache: foreign, ids })).toThrow(/cache of this model/)
    const part = { cache, ids: Int32Array.of(4), sampler: makeSampler() }
    expect(() => model.step([part, part], 1)).toThrow(/sequences\[1\]\.cache/)
    const step = model.step([part], 1)
    expect(one(part)).toThrow(/no step is using/)
    expect(one({ ...part, cache: model.cache(3) })).toThrow(/sampler that no step is using/)
    expect(() => cache.truncate(0)).toThrow(/no step is using/)
    expect(() => part.sampler.accept(ids)).toThrow(/no step is using/)
    await run(step)
    cache.dispose()
    expect(one({ cache, ids })).toThrow(/not disposed/)
  })

  it('is refused beyond learned positions', async () => {
    const { model: opt } = await loadFixture('opt')
    const cache = opt.cache(300)
    await run(opt.step([{ cache, ids: new Int32Array(256) }], 2))
    await expect(run(opt.step([{ cache, ids: Int32Array.of(1) }], 2))).rejects.toThrow(/256 positions/)
  })
})

describe.each(DTYPES)('a cache of %s', (dtype) => {
  let model: NativeDecoderModel
  const ids = randomIds(400, VOCAB, 6)
  const filled = async (length: number) => {
    const cache = model.cache(1000, dtype)
    await run(model.step([{ cache, ids: ids.subarray(0, length) }], 2))
    return cache
  }
  const next = (cache: NativeKvCache, at: number) =>
    stepLogprobs(model, cache, ids.subarray(at, at + 9), VOCAB)
  beforeAll(async () => {
    model = await randomModel('like LLaMA', 'int8')
  })

  it('forgets what is truncated', async () => {
    for (const length of [0, 1, 100, 128, 129, 300]) {
      const cache = await filled(310)
      cache.truncate(length)
      expect(cache.length).toBe(length)
      const fresh = length ? await filled(length) : model.cache(20, dtype)
      expect(await next(cache, length)).toEqual(await next(fresh, length))
    }
  })

  it('shares a prefix with another, and neither sees what the other appends', async () => {
    for (const length of [0, 5, 128, 200, 256]) {
      const source = await filled(260)
      const copy = model.cache(500, dtype)
      copy.copyPrefix(source, length)
      expect(copy.length).toBe(length)
      const expected = await next(length ? await filled(length) : model.cache(20, dtype), length)
      const own = await next(await filled(260), 260)
      expect(await next(copy, length)).toEqual(expected)
      expect(await next(source, 260)).toEqual(own)
      source.dispose()
      copy.truncate(length)
      expect(await next(copy, length)).toEqual(expected)
    }
  })

  it('takes memory as it grows, and gives it back', async () => {
    const cache = model.cache(1e6, dtype)
    expect([cache.byteLength, cache.capacity, cache.dtype]).toEqual([0, 1e6, dtype])
    await run(model.step([{ cache, ids }], 2))
    const { byteLength } = cache
    expect(byteLength).toBeGreaterThan(0)
    cache.truncate(100)
    expect(cache.byteLength).toBe(byteLength / 4)
    cache.dispose()
    expect([cache.length, cache.byteLength]).toEqual([0, 0])
  })

  it('says what cannot be', async () => {
    const cache = await filled(10)
    expect(() => cache.truncate(11)).toThrow(/at most the 10 tokens of the cache for length/)
    expect(() => model.cache(5, dtype).copyPrefix(cache, 6)).toThrow(/capacity, 5/)
    expect(() => model.cache(50, dtype).copyPrefix(cache, 11)).toThrow(/at most the 10 tokens/)
    const other = model.cache(50, dtype === 'I8' ? 'F16' : 'I8')
    expect(() => other.copyPrefix(cache, 1)).toThrow(/a cache of (I8|F16) for from/)
    expect(() => other.copyPrefix({} as never, 1)).toThrow(/cache of the same model/)
    expect(() => model.cache(0, dtype)).toThrow(/capacity/)
    expect(() => model.cache(1, 'BF16' as never)).toThrow(/'F16', 'I8' or 'F32' for dtype/)
    cache.dispose()
    cache.dispose()
    expect(() => cache.truncate(0)).toThrow(expect.objectContaining({ code: 'SLIM_DISPOSED' }))
  })
})

describe('int8 activations', () => {
  it.each(FAMILIES)('%s: dense weights are not touched by them', async (family) => {
    const { embedding, blocks, head, spec, model } = await loadFixture(family)
    const int8 = new (addon().DecoderModel)({
      ...embedding,
      blocks,
      ...head,
      logitSoftcap: spec.logitSoftcap,
      activations: 'int8',
    })
    const ids = randomIds(20, spec.vocabSize, 1)
    await run(int8.prepare(2))
    expect(await run(int8.logits(ids, 2))).toEqual(await run(model.logits(ids, 2)))
  })

  it('differ little from float32 ones in packed matrices, in full passes as in steps', async () => {
    const ids = randomIds(60, VOCAB, 7)
    const [int8, float32] = await Promise.all(
      (['int8', 'float32'] as const).map(async (activations) => {
        const model = await randomModel('like LLaMA', activations)
        const [step] = await alone(model, ids, [60], 'F32')
        return { logits: await run(model.logits(ids, 2)), step: step! }
      }),
    )
    const full = logSoftmax(int8!.logits.subarray(59 * VOCAB))
    expect(largestDifference(int8!.step, full)).toBeLessThan(1e-4)
    const error = largestDifference(int8!.logits, float32!.logits)
    const size = Math.max(...float32!.logits.map(Math.abs))
    expect(error).toBeGreaterThan(1e-5 * size)
    expect(error).toBeLessThan(5e-2 * size)
  })

  it('are int8 or float32', async () => {
    await expect(randomModel('like LLaMA', 'int4' as never)).rejects.toThrow(
      /'int8' or 'float32' for activations/,
    )
  })
})

describe('ten thousand steps', () => {
  it('leak nothing', async () => {
    const model = await randomModel('like LLaMA', 'int8')
    const cache = model.cache(64)
    const sampler = makeSampler({ temperature: 1 })
    const token = Int32Array.of(1)
    const steps = async (count: number) => {
      for (let i = 0; i < count; i++) {
        if (cache.length === 64) cache.truncate(0)
        await run(model.step([{ cache, ids: token, sampler }], 1))
      }
    }
    await steps(2000)
    global.gc?.()
    const before = process.memoryUsage().rss
    await steps(8000)
    global.gc?.()
    expect(process.memoryUsage().rss - before).toBeLessThan(24 * 2 ** 20)
  })
})
