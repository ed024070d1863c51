import { beforeAll, describe, expect, it } from 'vitest'
import { addon, type SamplerOptions } from '../../../lib/native/addon.js'
import { randomFloats } from '../../support/decoder.js'
import { ReferenceSampler } from '../../support/sampler.js'
import { logSoftmax, makeSampler } from '../../support/step.js'

/** Logits as models give them: a few tokens stand out. */
const randomLogits = (vocab: number, seed: number) => randomFloats(vocab, seed, 1.6).map((x) => x ** 5)

describe.each(addon().instructionSets())('the sampler with %s', (instructionSet) => {
  beforeAll(() => addon().setInstructionSet(instructionSet))

  it.each<SamplerOptions>([
    {},
    { repetitionPenalty: 1.3 },
    { temperature: 1 },
    { temperature: 0.7, topK: 40 },
    { temperature: 1, topK: 1 },
    { temperature: 1, topK: 300 },
    { temperature: 1.5, topP: 0.9 },
    { temperature: 0.8, topP: 0.3 },
    { temperature: 5, topP: 0.999 },
    { temperature: 1, minP: 0.05 },
    { temperature: 1.2, topK: 50, topP: 0.95, minP: 0.02, repetitionPenalty: 1.2, repetitionWindow: 8 },
    { temperature: 0.01 },
    { temperature: 100, topP: 0.5, repetitionPenalty: 0.8 },
  ])('draws what the float64 reference draws: %j', (options) => {
    for (const vocab of [1, 2, 63, 64, 65, 257, 5000]) {
      const [sampler, reference] = [
        makeSampler({ ...options, seed: 7 }),
        new ReferenceSampler({ ...options, seed: 7 }),
      ]
      const prompt = Int32Array.of(0, vocab - 1, 0)
      sampler.accept(prompt)
      reference.accept(prompt)
      for (let draw = 0; draw < 30; draw++) {
        const logits = randomLogits(vocab, draw * 31 + vocab)
        const [given, expected] = [sampler.sample(logits), reference.sample(logits)]
        expect(given.tokenId, `draw ${draw} of ${vocab}`).toBe(expected.tokenId)
        expect(Math.abs(given.logprob - expected.logprob)).toBeLessThan(1e-5)
      }
    }
  })

  it('takes the lower id of equal logits, and never one of −∞', () => {
    const none = Number.NEGATIVE_INFINITY
    expect(makeSampler().sample(Float32Array.of(1, 3, 3, 2)).tokenId).toBe(1)
    const equal = new Float32Array(100).fill(2)
    const counts = new Set<number>()
    const first = makeSampler({ temperature: 1, topK: 3, seed: 1 })
    for (let i = 0; i < 100; i++) counts.add(first.sample(equal).tokenId)
    expect([...counts].sort()).toEqual([0, 1, 2])
    const half = makeSampler({ temperature: 1, topP: 0.5, seed: 1 })
    for (let i = 0; i < 100; i++) expect(half.sample(equal).tokenId).toBeLessThan(50)
    for (const options of [{ temperature: 1 }, { temperature: 3, topK: 3 }, { temperature: 1, topP: 0.99 }]) {
      const sampler = makeSampler(options)
      for (let i = 0; i < 50; i++)
        expect(sampler.sample(Float32Array.of(none, 1, none, none, 0.5)).tokenId % 3).toBe(1)
    }
    const only = makeSampler().sample(Float32Array.of(none, 4))
    expect([only.tokenId, only.logprob]).toEqual([1, 0])
  })

  it('tells the likeliest tokens under the unmodified logits', () => {
    const logits = randomLogits(500, 3)
    const sampler = makeSampler({ topLogprobs: 4, repetitionPenalty: 1e6, temperature: 0.3 })
    sampler.accept(Int32Array.from(logits.keys()))
    const { top } = sampler.sample(logits)
    const expected = logSoftmax(logits)
    const order = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]! || a - b)
    expect(top.map(({ tokenId }) => tokenId)).toEqual(order.slice(0, 4))
    for (const { tokenId, logprob } of top) expect(Math.abs(logprob - expected[tokenId]!)).toBeLessThan(1e-5)
    expect(makeSampler({ topLogprobs: 9 }).sample(Float32Array.of(0, 0)).top).toHaveLength(2)
  })

  it('refuses logits that are not numbers, and goes on as if it had not seen them', () => {
    const [sampler, other] = [
      makeSampler({ temperature: 1, seed: 5 }),
      makeSampler({ temperature: 1, seed: 5 }),
    ]
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY])
      for (const at of [0, 40, 99]) {
        const logits = randomLogits(100, 1)
        logits[at] = bad
        expect(() => sampler.sample(logits)).toThrow(expect.objectContaining({ code: 'SLIM_NON_FINITE' }))
      }
    const nothing = new Float32Array(3).fill(Number.NEGATIVE_INFINITY)
    expect(() => sampler.sample(nothing)).toThrow(expect.objectContaining({ code: 'SLIM_NON_FINITE' }))
    const logits = new Float32Array(100)
    for (let i = 0; i < 10; i++) expect(sampler.sample(logits)).toEqual(other.sample(logits))
  })
})

describe('bad input', () => {
  it.each([
    [{ temperature: -1 }, 'temperature'],
    [{ temperature: Number.NaN }, 'temperature'],
    [{ topK: -1 }, 'topK'],
    [{ topK: 1.5 }, 'topK'],
    [{ topP: 0 }, 'topP'],
    [{ topP: 1.1 }, 'topP'],
    [{ minP: -0.1 }, 'minP'],
    [{ minP: 2 }, 'minP'],
    [{ repetitionPenalty: 0 }, 'repetitionPenalty'],
    [{ repetitionPenalty: 1e39 }, 'repetitionPenalty'],
    [{ repetitionWindow: -1 }, 'repetitionWindow'],
    [{ seed: 0.5 }, 'seed'],
    [{ topLogprobs: '3' as never }, 'topLogprobs'],
  ])('names the parameter of %j', (options, parameter) => {
    expect(() => makeSampler(options)).toThrow(
      expect.objectContaining({ code: 'SLIM_INVALID_ARGUMENT', parameter }),
    )
  })

  it('says what a disposed or a wrong sampler is', () => {
    const sampler = makeSampler()
    expect(() => sampler.sample(new Float32Array(0))).toThrow(/at least one logit for logits/)
    expect(() => sampler.accept([1] as never)).toThrow(/Int32Array of token ids for ids/)
    sampler.dispose()
    sampler.dispose()
    expect(() => sampler.sample(Float32Array.of(1))).toThrow(
      expect.objectContaining({ code: 'SLIM_DISPOSED' }),
    )
    expect(() => sampler.accept(Int32Array.of(1))).toThrow(expect.objectContaining({ code: 'SLIM_DISPOSED' }))
  })
})
