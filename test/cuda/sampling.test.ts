/** Tokens drawn on the device against those of the float64 reference, with the same random numbers. */
import { afterAll, describe, expect, it } from 'vitest'
import {
  addon,
  type NativeDecoderModel,
  type NativeSampler,
  run,
  type SamplerOptions,
} from '../../lib/native/addon.js'
import { hasEmulator, loadOnDevice, onGpu, openEmulated } from '../support/cuda.js'
import { largestDifference, loadFixture, randomFloats, randomIds } from '../support/decoder.js'
import { ReferenceSampler } from '../support/sampler.js'
import { logSoftmax, makeSampler } from '../support/step.js'

const skip = !hasEmulator()
const emulated = skip ? null : openEmulated()
afterAll(() => emulated?.close())

const NONE = Number.NEGATIVE_INFINITY

/** Logits as models give them: a few tokens stand out. */
const randomLogits = (vocab: number, seed: number) => randomFloats(vocab, seed, 1.6).map((x) => x ** 5)

function sampleRows(rows: readonly Float32Array[], samplers: readonly NativeSampler[]) {
  const vocab = rows[0]!.length
  const values = new Float32Array(rows.length * vocab)
  for (const [i, row] of rows.entries()) values.set(row, i * vocab)
  const logits = addon().tensorFrom(values, 'F32', [rows.length, vocab])
  return run(emulated!.device.sample(logits, samplers))
}

/** The same tokens as the reference, draw by draw; all samplers in one launch, each with logits of its own. */
async function check(
  vocab: number,
  options: readonly SamplerOptions[],
  draws: number,
  logitsOf = randomLogits,
) {
  const samplers = options.map((o, i) => makeSampler({ ...o, seed: 7 + i }))
  const references = options.map((o, i) => new ReferenceSampler({ ...o, seed: 7 + i }))
  const prompt = Int32Array.of(0, vocab - 1, 0, vocab >> 1, vocab - 1)
  for (const sampler of [...samplers, ...references]) sampler.accept(prompt)
  for (let draw = 0; draw < draws; draw++) {
    const rows = options.map((_, i) => logitsOf(vocab, draw * 31 + 7 * i + vocab))
    const tokens = await sampleRows(rows, samplers)
    for (const [i, { tokenId, logprob, top }] of tokens.entries()) {
      const expected = references[i]!.sample(rows[i]!)
      const what = `draw ${draw} of ${vocab} by ${JSON.stringify(options[i])}`
      expect(tokenId, what).toBe(expected.tokenId)
      expect(Math.abs(logprob - expected.logprob), what).toBeLessThan(1e-5)
      expect(top, what).toHaveLength(Math.min(options[i]!.topLogprobs ?? 0, vocab))
    }
  }
}

const OPTIONS: SamplerOptions[] = [
  {},
  { repetitionPenalty: 1.3 },
  { temperature: 1 },
  { temperature: 0.7, topK: 40 },
  { temperature: 1, topK: 1 },
  { temperature: 1, topK: 300, topLogprobs: 3 },
  { temperature: 1.5, topP: 0.9 },
  { temperature: 0.8, topP: 0.3 },
  { temperature: 5, topP: 0.999 },
  { temperature: 1, topP: 1 - 1e-7 },
  { temperature: 2, topP: 1 - 1e-12, topK: 30 },
  { temperature: 1, minP: 0.05 },
  { temperature: 1, minP: 1 },
  { temperature: 1.2, topK: 50, topP: 0.95, minP: 0.02, repetitionPenalty: 1.2, repetitionWindow: 8 },
  { temperature: 0.01 },
  { temperature: 1e-40, topP: 0.5 },
  { temperature: 1e40, topK: 5 },
  { temperature: 100, topP: 0.5, repetitionPenalty: 0.8 },
  { temperature: 2, repetitionPenalty: 1e6, repetitionWindow: 3, topLogprobs: 2 },
]

describe.skipIf(skip)('sampling on the emulated device', () => {
  for (const [vocab, draws] of [
    [1, 2],
    [2, 4],
    [7, 8],
    [63, 8],
    [1000, 6],
    [1025, 3],
    [4099, 3],
  ] as const)
    it(`draws what the float64 reference draws of ${vocab} tokens`, () => check(vocab, OPTIONS, draws))

  it('is right for more tokens than a shortlist holds', () =>
    check(
      33_001,
      [
        {},
        { temperature: 1 },
        { temperature: 1, topK: 40, topP: 0.9 },
        { temperature: 1, topK: 3000 },
        { temperature: 3, topK: 3000, topP: 0.9 },
        { temperature: 100, topP: 0.9 },
        { temperature: 1, topP: 1 - 1e-9 },
      ],
      1,
    ))

  // Every likelihood of the reference is then exact, too: cuts fall amid equal tokens.
  it('takes the lower ids of equal logits', async () => {
    const few = (vocab: number, seed: number) =>
      randomFloats(vocab, seed, 2).map((x) => Math.floor(x) * Math.fround(Math.LN2) || (x > 0 ? 0 : -0))
    const options: SamplerOptions[] = [
      {},
      { temperature: 1, topK: 3 },
      { temperature: 1, topK: 100 },
      { temperature: 1e40, topK: 1000 },
      { temperature: 1e40, topP: 0.37 },
      { temperature: 1e40, topK: 130, topP: 0.6 },
    ]
    for (const vocab of [9, 200, 2500]) await check(vocab, options, 3, few)
    const equal = (vocab: number) => new Float32Array(vocab).fill(-3)
    for (const vocab of [5, 2500]) await check(vocab, options, 3, equal)
  })

  it('never draws a token of −∞', () =>
    check(
      300,
      [{}, { temperature: 1 }, { temperature: 3, topK: 250 }, { temperature: 1, topP: 0.99 }, { minP: 0.1 }],
      4,
      (vocab, seed) => randomLogits(vocab, seed).map((x, i) => (i % 3 === seed % 3 ? x : NONE)),
    ))

  it('keeps logits numbers that penalties and temperatures take beyond float32', async () => {
    const huge = (vocab: number, seed: number) => randomFloats(vocab, seed, 3e38)
    const options = { repetitionPenalty: 1e6, repetitionWindow: 99 }
    const rows = [huge(60, 1), huge(60, 2)]
    const [given, expected] = [0, 1].map(() =>
      [0, 1].map((temperature) => makeSampler({ ...options, temperature, seed: 3 })),
    ) as [NativeSampler[], NativeSampler[]]
    for (const sampler of [...given, ...expected])
      sampler.accept(Int32Array.from({ length: 50 }, (_, i) => i))
    expect(await sampleRows(rows, given)).toEqual(expected.map((sampler, i) => sampler.sample(rows[i]!)))
  })

  it('tells the likeliest tokens under the unmodified logits', async () => {
    for (const vocab of [3, 500, 5000]) {
      const counts = [1, 4, 300, 1100, 3000, 5000]
      const rows = counts.map((count) => randomLogits(vocab, count).map((x) => Math.round(x * 8) / 8))
      const samplers = counts.map((topLogprobs) =>
        makeSampler({ topLogprobs, repetitionPenalty: 1e6, repetitionWindow: 9999, temperature: 0.3 }),
      )
      for (const sampler of samplers) sampler.accept(Int32Array.of(...Array(vocab).keys()))
      for (const [i, { top }] of (await sampleRows(rows, samplers)).entries()) {
        const logits = rows[i]!
        const expected = logSoftmax(logits)
        const order = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]! || a - b)
        const ids = top.map(({ tokenId }) => tokenId)
        expect(ids).toEqual(order.slice(0, counts[i]))
        const logprobs = top.map(({ logprob }) => logprob)
        expect(
          largestDifference(
            logprobs,
            ids.map((id) => expected[id]!),
          ),
        ).toBeLessThan(1e-5)
      }
    }
  })

  it('draws tokens as often as they are likely', async () => {
    const logits = Float32Array.of(1, NONE, 0, 2, -1)
    const draws = 300
    const rows = Array<Float32Array>(draws).fill(logits)
    const samplers = rows.map((_, seed) => makeSampler({ temperature: 2, seed }))
    const counts = logits.map(() => 0)
    for (const { tokenId } of await sampleRows(rows, samplers)) counts[tokenId]! += 1
    const likelihoods = logSoftmax(logits.map((x) => x / 2)).map(Math.exp)
    expect(counts[1]).toBe(0)
    for (const [i, p] of likelihoods.entries())
      expect(Math.abs(counts[i]! - p * draws)).toBeLessThanOrEqual(4 * Math.sqrt(draws * p * (1 - p)))
  })

  it('refuses logits that are not numbers, and goes on as if it had not seen them', async () => {
    const make = () => [0, 1].map((seed) => makeSampler({ temperature: 1, seed }))
    const [samplers, others] = [make(), make()]
    const good = randomLogits(1500, 1)
    const withOne = (bad: number, at: number) => good.map((x, i) => (i === at ? bad : x))
    const bads = [
      withOne(Number.NaN, 0),
      withOne(Number.NaN, 1499),
      withOne(Number.POSITIVE_INFINITY, 1030),
      good.map(() => NONE),
    ]
    for (const bad of bads)
      await expect(sampleRows([good, bad], samplers)).rejects.toMatchObject({
        code: 'SLIM_NON_FINITE',
        parameter: 'logits[1]',
      })
    expect(await sampleRows([good, good], samplers)).toEqual(await sampleRows([good, good], others))
  })

  it('names the parameter of wrong arguments', () => {
    const { device } = emulated!
    const logits = addon().allocateTensor('F32', [2, 5])
    const sampler = makeSampler()
    const thrown = (parameter: string) =>
      expect.objectContaining({ code: 'SLIM_INVALID_ARGUMENT', parameter })
    expect(() => device.sample(logits, [sampler])).toThrow(thrown('logits'))
    expect(() => device.sample(addon().allocateTensor('F16', [1, 5]), [sampler])).toThrow(thrown('logits'))
    expect(() => device.sample(logits, [makeSampler(), sampler, sampler])).toThrow(thrown('logits'))
    expect(() => device.sample(logits, [makeSampler(), {} as NativeSampler])).toThrow(thrown('samplers[1]'))
    expect(() => device.sample(logits, [sampler, sampler])).toThrow(thrown('samplers[1]'))
  })
})

describe.skipIf(skip)('generation on the emulated device', () => {
  const open = async (family: string) => {
    const decoder = await loadFixture(family)
    return { ...decoder, onDevice: await loadOnDevice(emulated!.device, decoder) }
  }

  it.each(['llama', 'qwen3'])('of %s draws the tokens of the CPU with the same seeds', async (family) => {
    const { model, onDevice, spec } = await open(family)
    const continued = async (decoder: NativeDecoderModel) => {
      const prompts = OPTIONS.map((_, i) => randomIds(3 + i, spec.vocabSize, i))
      const caches = prompts.map((prompt) => decoder.cache(prompt.length + 6))
      const samplers = OPTIONS.map((options, seed) => makeSampler({ ...options, seed }))
      for (const [i, sampler] of samplers.entries()) sampler.accept(prompts[i]!)
      const ids: number[][] = OPTIONS.map(() => [])
      let next = prompts
      for (let t = 0; t < 6; t++) {
        const sequences = next.map((given, i) => ({ cache: caches[i]!, ids: given, sampler: samplers[i]! }))
        const tokens = await run(decoder.step(sequences, 1))
        next = tokens.map((token) => Int32Array.of(token!.tokenId))
        for (const [i, token] of tokens.entries()) ids[i]!.push(token!.tokenId)
      }
      for (const cache of caches) cache.dispose()
      return ids
    }
    expect(await continued(onDevice)).toEqual(await continued(model))
    onDevice.dispose()
  })

  it.skipIf(onGpu)('downloads tokens, not logits, and draws them in the recorded step', async () => {
    const { onDevice: model, spec } = await open('llama')
    const cache = model.cache(20)
    const sampler = makeSampler({ temperature: 1, topK: 10, repetitionPenalty: 1.1, topLogprobs: 2 })
    let ids = randomIds(5, spec.vocabSize, 1)
    for (let t = 0; t < 5; t++) {
      emulated!.downloads()
      emulated!.launches()
      const [token] = await run(model.step([{ cache, ids, sampler }], 1))
      ids = Int32Array.of(token!.tokenId)
      // 24 bytes of the token, 8 of each of the likeliest.
      expect(emulated!.downloads()).toEqual([40])
      const launches = emulated!.launches()
      expect(launches.filter(({ kernel }) => kernel === 'sampleTokens')).toHaveLength(1)
      // The prompt, the first step of its shape, and then steps that are one graph.
      expect(launches.map(({ graph }) => graph)).toEqual(launches.map(() => t >= 2))
    }
    cache.dispose()
    model.dispose()
  })

  it('names the sequence whose logits are not numbers', async () => {
    const decoder = await loadFixture('llama')
    const { vocabSize, hiddenSize } = decoder.spec
    const table = randomFloats(vocabSize * hiddenSize, 1)
    table.fill(Number.NaN, 3 * hiddenSize, 4 * hiddenSize)
    const embedding = {
      ...decoder.embedding,
      embedding: addon().tensorFrom(table, 'F32', [vocabSize, hiddenSize]),
    }
    const model = await loadOnDevice(emulated!.device, { ...decoder, embedding })
    const sequence = (id: number) => ({
      cache: model.cache(4),
      ids: Int32Array.of(id),
      sampler: makeSampler(),
    })
    const sequences = [sequence(1), sequence(3)]
    await expect(run(model.step(sequences, 1))).rejects.toMatchObject({
      code: 'SLIM_NON_FINITE',
      parameter: 'sequences[1]',
    })
    for (const { cache } of sequences) {
      expect(cache.length).toBe(0)
      cache.dispose()
    }
    model.dispose()
  })
})
