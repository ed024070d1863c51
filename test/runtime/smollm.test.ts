/** A real model straight from its GGUF file, against transformers' figures. */
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { loadModel, type Model } from '../../lib/index.js'
import { sharedPath } from '../support/models.js'

const gguf = sharedPath('models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf')
const goldenFile = sharedPath('models/smollm2-135m-instruct/golden.json')
const wikitext = sharedPath('data/wikitext-2-raw/wiki.test.raw')

describe.skipIf(!gguf || !goldenFile || !wikitext)('SmolLM2-135M-Instruct from GGUF', () => {
  let model: Model
  let golden: {
    forward: {
      mean_nll_127: number
      last_top10_ids: number[]
      last_top10_logits: number[]
      last_logits_l2: number
    }
    greedy: { prompt: string; ids: number[]; continuation: number[]; text: string }[]
  }
  beforeAll(async () => {
    golden = JSON.parse(readFileSync(goldenFile!, 'utf8'))
    model = await loadModel(gguf!)
  })
  afterAll(() => model.dispose())

  it('gives the NLL and the ten largest logits of the first 128 test tokens', async () => {
    const ids = model.tokenizer.encode(readFileSync(wikitext!, 'utf8').slice(0, 4000)).slice(0, 128)
    const nll = await model.native.tokenNll(ids, 2).promise
    expect(Math.abs(nll.reduce((sum, x) => sum + x, 0) / 127 - golden.forward.mean_nll_127)).toBeLessThan(
      1e-3,
    )
    const last = (await model.logits(ids)).slice(127 * 49152)
    const order = Array.from(last.keys()).sort((a, b) => last[b]! - last[a]!)
    expect(order.slice(0, 10)).toEqual(golden.forward.last_top10_ids)
    golden.forward.last_top10_ids.forEach((id, i) => {
      expect(Math.abs(last[id]! - golden.forward.last_top10_logits[i]!)).toBeLessThan(5e-3)
    })
    expect(Math.hypot(...last)).toBeCloseTo(golden.forward.last_logits_l2, -1)
  })

  it.each([0, 1])('continues prompt %i greedily as transformers does', async (i) => {
    const { prompt, ids, continuation } = golden.greedy[i]!
    expect([...model.tokenizer.encode(prompt)]).toEqual(ids)
    const tokens = []
    for await (const token of model.generate(prompt, { maxTokens: continuation.length })) tokens.push(token)
    expect(tokens.map((token) => token.tokenId)).toEqual(continuation)
  })
})
