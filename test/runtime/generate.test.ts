import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type GeneratedToken, loadModel, loadTokenizer, type Model, type Tokenizer } from '../../lib/index.js'
import type { StepSequence } from '../../lib/native/addon.js'
import { generateTokens } from '../../lib/runtime/generate.js'
import { demo, rejection } from '../support/demo.js'

let model: Model
beforeAll(async () => {
  model = await loadModel(demo, { threads: 2 })
})
afterAll(() => model.dispose())

describe('generate', () => {
  const collect = async (options: object) => {
    const out: GeneratedToken[] = []
    for await (const token of model.generate('The old man', { maxTokens: 20, ...options })) out.push(token)
    return out
  }

  it('is greedy by default: each token is the likeliest after those before it', async () => {
    const tokens = await collect({})
    const ids = [...model.tokenizer.encode('The old man'), ...tokens.map((token) => token.tokenId)]
    const logits = await model.logits(ids)
    const first = ids.length - tokens.length
    tokens.forEach(({ tokenId, logprob }, i) => {
      const row = logits.subarray((first + i - 1) * 2048, (first + i) * 2048)
      expect(row[tokenId]).toBeGreaterThan(Math.max(...row) - 1e-3)
      expect(logprob).toBeCloseTo(row[tokenId]! - Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0)), 3)
    })
    expect(tokens.map((token) => token.text).join('')).toBe(model.tokenizer.decode(ids.slice(first)))
  })

  it('draws the same with the same seed, other text with another', async () => {
    const text = async (seed: number) =>
      (await collect({ temperature: 1, seed })).map((t) => t.tokenId).join()
    expect(await text(1)).toBe(await text(1))
    expect(await text(1)).not.toBe(await text(2))
    const greedy = (await collect({})).map((t) => t.tokenId).join()
    expect((await collect({ temperature: 1, topP: 1e-9 })).map((t) => t.tokenId).join()).toBe(greedy)
  })

  it('stops when told to, and refuses what makes no sense', async () => {
    const controller = new AbortController()
    controller.abort()
    expect(await rejection(collect({ signal: controller.signal }))).toMatchObject({ code: 'SLIM_ABORTED' })
    for (const [options, parameter] of [
      [{ maxTokens: -1 }, 'maxTokens'],
      [{ temperature: -1 }, 'temperature'],
      [{ topP: 0 }, 'topP'],
      [{ seed: Number.NaN }, 'seed'],
    ] as const)
      expect(await rejection(collect(options))).toMatchObject({ code: 'SLIM_INVALID_ARGUMENT', parameter })
    await model.dispose()
    await model.dispose()
    expect(await rejection(collect({}))).toMatchObject({ code: 'SLIM_DISPOSED' })
    model = await loadModel(demo, { threads: 2 })
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
})

/** A stand-in for a native model that continues every prompt with these tokens; it keeps what it was given. */
function scripted(tokenizer: Tokenizer, continuation: number[]) {
  const given: Int32Array[] = []
  let made = 0
  const native = {
    cache: () => ({ dispose() {} }),
    step: ([{ ids }]: [StepSequence]) => {
      given.push(ids)
      const token = { tokenId: continuation[made++]!, logprob: 0, top: [] }
      return { promise: Promise.resolve([token]), cancel() {} }
    },
  }
  const spec = { vocabSize: tokenizer.vocabSize, positions: null }
  return { model: { tokenizer, native, spec, threads: 1 } as unknown as Model, given }
}

describe('the prompt and the end of the text', () => {
  const tokenizer = (bos: boolean) =>
    loadTokenizer({
      json: {
        added_tokens: ['<s>', '</s>'].map((content, id) => ({ id, content, special: true })),
        model: { type: 'BPE', vocab: { '<s>': 0, '</s>': 1, a: 2, b: 3 }, merges: [] },
        decoder: { type: 'Fuse' },
        post_processor: bos
          ? {
              type: 'TemplateProcessing',
              single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
              pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
              special_tokens: { '<s>': { id: '<s>', ids: [0], tokens: ['<s>'] } },
            }
          : null,
      },
      config: { bos_token: '<s>', eos_token: '</s>' },
    })

  it.each([
    [true, 'ab', [0, 2, 3]],
    [true, '<s>ab', [0, 2, 3]],
    [true, '', [0]],
    [false, 'ab', [2, 3]],
    [true, [2, 3], [2, 3]],
  ])('with a post-processor: %s, the prompt %j is read as %j', async (bos, prompt, ids) => {
    const { model, given } = scripted(tokenizer(bos), [2])
    await generateTokens(model, prompt, { maxTokens: 1 }).next()
    expect([...given[0]!]).toEqual(ids)
  })

  it("yields the token that ends the text without that token's own text", async () => {
    const { model } = scripted(tokenizer(true), [2, 3, 1, 2])
    const tokens: GeneratedToken[] = []
    for await (const token of generateTokens(model, 'a', {})) tokens.push(token)
    expect(tokens.map(({ text, tokenId }) => [text, tokenId])).toEqual([
      ['a', 2],
      ['b', 3],
      ['', 1],
    ])
  })
})
