import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { evaluatePerplexity, loadModel, type Model } from '../../lib/index.js'
import { demo, heldoutFile, rejection } from '../support/demo.js'

let model: Model
beforeAll(async () => {
  model = await loadModel(demo, { threads: 2 })
})
afterAll(() => model.dispose())

describe('evaluatePerplexity', () => {
  it('gives the demo model its reference figure: 35.61 on 32,768 held-out tokens', async () => {
    const result = await evaluatePerplexity(model, { file: heldoutFile, seqLen: 256, maxTokens: 32_768 })
    expect(result.tokens).toBe(32_768)
    expect(result.perplexity).toBeGreaterThan(35.61 * 0.998)
    expect(result.perplexity).toBeLessThan(35.61 * 1.002)
  })

  it('is the mean of log-probabilities computed from the logits, over whole windows', async () => {
    const ids = model.tokenizer.encode(readFileSync(heldoutFile, 'utf8').slice(0, 2000)).slice(0, 75)
    const result = await evaluatePerplexity(model, { tokenIds: ids, seqLen: 32 })
    expect(result.tokens).toBe(64)
    let nll = 0
    for (const start of [0, 32]) {
      const logits = await model.logits(ids.slice(start, start + 32))
      for (let t = 0; t < 31; t++) {
        const row = logits.subarray(t * 2048, (t + 1) * 2048)
        nll += Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0)) - row[ids[start + t + 1]!]!
      }
    }
    expect(result.meanNll).toBeCloseTo(nll / 62, 4)
    expect(result.perplexity).toBeCloseTo(Math.exp(result.meanNll), 9)
  })

  it('finds no divergence between a model and itself', async () => {
    const result = await evaluatePerplexity(model, {
      file: heldoutFile,
      seqLen: 64,
      maxTokens: 256,
      reference: model,
    })
    expect(result.referencePerplexity).toBe(result.perplexity)
    expect(Math.abs(result.klDivergence!)).toBeLessThan(1e-6)
    expect(result.top1Agreement).toBe(1)
  })

  it('refuses a text shorter than a window, a missing file, no text at all', async () => {
    expect(await rejection(evaluatePerplexity(model, { text: 'Short.', seqLen: 256 }))).toMatchObject({
      code: 'SLIM_TEXT_TOO_SHORT',
    })
    expect(await rejection(evaluatePerplexity(model, { file: 'none.txt' }))).toMatchObject({
      code: 'SLIM_FILE_NOT_FOUND',
    })
    expect(await rejection(evaluatePerplexity(model, {}))).toMatchObject({
      code: 'SLIM_INVALID_ARGUMENT',
      parameter: 'file',
    })
    expect(await rejection(evaluatePerplexity(model, { text: 'a', seqLen: 1 }))).toMatchObject({
      parameter: 'seqLen',
    })
  })
})

describe('generate', () => {
  const collect = async (options: object) => {
    const out = []
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
    ] as const)
      expect(await rejection(collect(options))).toMatchObject({ code: 'SLIM_INVALID_ARGUMENT', parameter })
    await model.dispose()
    await model.dispose()
    expect(await rejection(collect({}))).toMatchObject({ code: 'SLIM_DISPOSED' })
    model = await loadModel(demo, { threads: 2 })
  })
})
