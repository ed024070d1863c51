/** Generation on the demo model, against its logits. */
import { existsSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  type GeneratedToken,
  type GenerateOptions,
  loadModel,
  type Model,
  quantize,
  type SequenceOptions,
} from '../../lib/index.js'
import { addon } from '../../lib/native/addon.js'
import { demo, rejection, small } from '../support/demo.js'
import { ReferenceSampler } from '../support/sampler.js'
import { letterTokenizer, scriptedModel } from '../support/scripted_model.js'
import { temporaryFolder } from '../support/temporary.js'

let model: Model
beforeAll(async () => {
  model = await loadModel(demo, { threads: 2 })
})
afterAll(() => model.dispose())

async function collect(
  model: Model,
  prompt: string,
  options: GenerateOptions = {},
): Promise<GeneratedToken[]> {
  const out: GeneratedToken[] = []
  for await (const token of model.generate(prompt, { maxTokens: 20, ...options })) out.push(token)
  return out
}
const idsOf = (tokens: GeneratedToken[]) => tokens.map(({ tokenId }) => tokenId).join()

describe('generate', () => {
  it('is greedy by default: each token is the likeliest after those before it', async () => {
    const tokens = await collect(model, 'The old man', { kvCache: 'f32', logprobs: 3 })
    const ids = [...model.tokenizer.encode('The old man'), ...tokens.map((token) => token.tokenId)]
    const logits = await model.logits(ids)
    const first = ids.length - tokens.length
    tokens.forEach(({ tokenId, logprob, top }, i) => {
      const row = logits.subarray((first + i - 1) * 2048, (first + i) * 2048)
      expect(row[tokenId]).toBeGreaterThan(Math.max(...row) - 1e-3)
      const logZ = Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0))
      expect(logprob).toBeCloseTo(row[tokenId]! - logZ, 3)
      const order = Array.from(row.keys()).sort((a, b) => row[b]! - row[a]!)
      expect(top!.map((one) => one.tokenId)).toEqual(order.slice(0, 3))
      for (const one of top!) expect(one.logprob).toBeCloseTo(row[one.tokenId]! - logZ, 3)
    })
    expect(tokens.map((token) => token.text).join('')).toBe(model.tokenizer.decode(ids.slice(first)))
  })

  it('draws the same with the same seed, other text with another', async () => {
    const draw = async (options: GenerateOptions) =>
      idsOf(await collect(model, 'The old man', { temperature: 1, ...options }))
    expect(await draw({ seed: 1 })).toBe(await draw({ seed: 1 }))
    expect(await draw({ seed: 1 })).not.toBe(await draw({ seed: 2 }))
    const greedy = idsOf(await collect(model, 'The old man'))
    for (const narrow of [{ topP: 1e-9 }, { topK: 1 }, { minP: 1 }]) expect(await draw(narrow)).toBe(greedy)
  })

  it('a repetition penalty keeps off the tokens of the prompt and of the text', async () => {
    const prompt = 'the sea and the sea and the sea and'
    const seen = new Set(model.tokenizer.encode(prompt))
    for (const { tokenId } of await collect(model, prompt, {
      repetitionPenalty: 1e6,
      repetitionWindow: 100,
    })) {
      expect(seen.has(tokenId)).toBe(false)
      seen.add(tokenId)
    }
  })

  it('ends at a stop string, across the borders of tokens', async () => {
    const whole = (await collect(model, 'The old man', { maxTokens: 30 })).map(({ text }) => text).join('')
    const stop = whole.slice(20, 33)
    const generation = model.generate('The old man', { maxTokens: 30, stop: [stop, 'never'] })
    let text = ''
    for await (const token of generation) text += token.text
    expect(text).toBe(whole.slice(0, whole.indexOf(stop)))
    expect(generation.finishReason).toBe('stop')
  })

  it('keeps keys and values in three ways that agree for a while', async () => {
    const texts = await Promise.all(
      (['f32', 'f16', 'int8'] as const).map(async (kvCache) =>
        idsOf(await collect(model, 'The old man', { kvCache, maxTokens: 6 })),
      ),
    )
    expect(new Set(texts).size).toBe(1)
  })

  it('stops when told to, and refuses what makes no sense', async () => {
    const controller = new AbortController()
    controller.abort()
    expect(await rejection(collect(model, 'a', { signal: controller.signal }))).toMatchObject({
      code: 'SLIM_ABORTED',
    })
    for (const [options, parameter] of [
      [{ maxTokens: -1 }, 'maxTokens'],
      [{ maxTokens: 1.5 }, 'maxTokens'],
      [{ temperature: -1 }, 'temperature'],
      [{ temperature: Number.NaN }, 'temperature'],
      [{ topP: 0 }, 'topP'],
      [{ topK: -1 }, 'topK'],
      [{ minP: 2 }, 'minP'],
      [{ repetitionPenalty: 0 }, 'repetitionPenalty'],
      [{ repetitionPenalty: 1e39 }, 'repetitionPenalty'],
      [{ repetitionWindow: -1 }, 'repetitionWindow'],
      [{ seed: Number.NaN }, 'seed'],
      [{ stop: '' }, 'stop'],
      [{ stop: ['a', 5] }, 'stop'],
      [{ logprobs: 21 }, 'logprobs'],
      [{ kvCache: 'F16' }, 'kvCache'],
      [{ max_tokens: 5 }, 'max_tokens'],
    ] as const)
      expect(await rejection(collect(model, 'a', options as never))).toMatchObject({
        code: 'SLIM_INVALID_ARGUMENT',
        parameter,
      })
    expect(await rejection(collect(model, 'a', { maxTokens: 1024 }))).toMatchObject({
      code: 'SLIM_CONTEXT_LENGTH',
    })
  })

  it('ends with the model', async () => {
    const short = await loadModel(demo)
    await short.dispose()
    await short.dispose()
    expect(await rejection(short.generate('a').next())).toMatchObject({ code: 'SLIM_DISPOSED' })
  })

  it('checks the token ids of a prompt', async () => {
    for (const [prompt, parameter] of [
      [[], 'prompt'],
      [[5, -1], 'prompt[1]'],
      [[5, 2048], 'prompt[1]'],
      [null as never, 'prompt'],
    ] as const)
      expect(await rejection(model.generate(prompt, {}).next())).toMatchObject({
        code: 'SLIM_INVALID_ARGUMENT',
        parameter,
      })
  })

  it.each([
    [true, 'ab', [0, 2, 3]],
    [true, '<s>ab', [0, 2, 3]],
    [true, '', [0]],
    [false, 'ab', [2, 3]],
    [true, [2, 3], [2, 3]],
  ])('with a post-processor: %s, the prompt %j is read as %j', async (bos, prompt, ids) => {
    const { model: scripted, steps } = scriptedModel({ tokenizer: letterTokenizer(bos) })
    await scripted.generate(prompt, { maxTokens: 1 }).next()
    expect(steps[0]!.sequences[0]!.ids).toEqual(ids)
  })
})

const folder = temporaryFolder()
/** The demo model as it is, and at 2 bits. */
async function sourceOf(weights: string): Promise<string> {
  const packed = path.join(folder, 'packed')
  if (weights !== 'packed') return demo
  if (!existsSync(packed)) await quantize(demo, small(packed, { method: 'rtn', calibration: undefined }))
  return packed
}
const best = addon().instructionSet()
const everyKernel = addon()
  .instructionSets()
  .flatMap((set) => ['float', 'packed'].map((weights) => [weights, set] as const))

describe.each(everyKernel)('with %s weights and %s kernels', (weights, instructionSet) => {
  let model: Model
  beforeAll(async () => {
    addon().setInstructionSet(instructionSet)
    model = await loadModel(await sourceOf(weights), { threads: 2 })
  })
  afterAll(async () => {
    await model.dispose()
    addon().setInstructionSet(best)
  })

  const requests: [string, SequenceOptions][] = [
    ['The old man', {}],
    ['It was a bright morning, and', { temperature: 0.8, seed: 3, topP: 0.9 }],
    ['The old man went', { temperature: 1, seed: 4, minP: 0.05 }],
    ['In the beginning of years, when the world was so new and all,', { repetitionPenalty: 1.3 }],
    ['The', { temperature: 1.2, topK: 40, seed: 5 }],
    ['The old man and the sea, and the ship, and the captain of the ship, who', {}],
  ]

  it.each<GenerateOptions>([
    { temperature: 0.8, topP: 0.95, seed: 11 },
    { temperature: 1.3, topK: 50, minP: 0.02, repetitionPenalty: 1.2, seed: 12 },
  ])('draws what the float64 sampler draws from the logits: %j', async (options) => {
    const tokens = await collect(model, 'The old man', { ...options, maxTokens: 30, kvCache: 'f32' })
    const prompt = model.tokenizer.encode('The old man')
    const logits = await model.logits([...prompt, ...tokens.map(({ tokenId }) => tokenId)])
    const reference = new ReferenceSampler(options)
    reference.accept(prompt)
    const row = (i: number) => logits.slice((prompt.length + i - 1) * 2048, (prompt.length + i) * 2048)
    const expected = tokens.map((_, i) => reference.sample(row(i)).tokenId)
    expect(idsOf(tokens)).toBe(expected.join())
  })

  it('a session makes the tokens that one after the other makes', async () => {
    const alone = []
    for (const [prompt, options] of requests)
      alone.push(idsOf(await collect(model, prompt, { ...options, maxTokens: 24 })))
    await using session = model.session({ maxSequences: 4, promptChunk: 8 })
    const together = await Promise.all(
      requests.map(async ([prompt, options], i) => {
        const tokens: GeneratedToken[] = []
        for await (const token of session.generate(prompt, { ...options, maxTokens: 24 })) {
          tokens.push(token)
          // Consumers of different speeds.
          if (i % 2) await new Promise((resolve) => setTimeout(resolve, i))
        }
        return idsOf(tokens)
      }),
    )
    expect(together).toEqual(alone)
    // Again, on what the caches have kept.
    const again = session.generate(...requests[5]!)
    const tokens: GeneratedToken[] = []
    for await (const token of again) if (tokens.push(token) === 24) break
    expect(again.reusedTokens).toBeGreaterThan(10)
    expect(idsOf(tokens)).toBe(alone[5])
  })
})
