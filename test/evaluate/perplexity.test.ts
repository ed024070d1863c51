import { readFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { evaluatePerplexity, loadModel, type Model, quantize, type SlimWarning } from '../../lib/index.js'
import { packageRoot } from '../../lib/native/addon.js'
import { demo, heldoutFile, rejection, small } from '../support/demo.js'
import { temporaryFolder } from '../support/temporary.js'

const optFolder = path.join(packageRoot(), 'test', 'fixtures', 'hf', 'opt')

const folder = temporaryFolder()
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

  it('changes by less than 0.5 % when packed layers take their inputs in int8', async () => {
    const packed = path.join(folder, 'packed')
    await quantize(demo, small(packed, { method: 'rtn', calibration: undefined }))
    const perplexityOf = async (activations: 'int8' | 'float32') => {
      await using packedModel = await loadModel(packed, { threads: 2, activations })
      const options = { file: heldoutFile, seqLen: 256, maxTokens: 16_384 }
      return (await evaluatePerplexity(packedModel, options)).perplexity
    }
    const [rounded, exact] = [await perplexityOf('int8'), await perplexityOf('float32')]
    expect(rounded).not.toBe(exact)
    expect(Math.abs(rounded / exact - 1)).toBeLessThan(0.005)
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
    for (const [options, parameter] of [
      [{ text: 'a', seqLen: 1 }, 'seqLen'],
      [{ text: 'a', maxTokens: 0 }, 'maxTokens'],
      [{ text: 'a', maxTokens: 1.5 }, 'maxTokens'],
      [{ tokenIds: [1, 2, 1.5] }, 'tokenIds[2]'],
      [{ tokenIds: [1, 2048] }, 'tokenIds[1]'],
      [{ tokenIds: null as never }, 'tokenIds'],
    ] as const)
      expect(await rejection(evaluatePerplexity(model, options))).toMatchObject({
        code: 'SLIM_INVALID_ARGUMENT',
        parameter,
      })
  })

  it('refuses a text that is not UTF-8', async () => {
    const file = path.join(demo, 'model.safetensors')
    const error = await rejection(evaluatePerplexity(model, { file, seqLen: 64 }))
    expect(error).toMatchObject({ code: 'SLIM_TEXT_ENCODING', file })
  })

  it('refuses windows beyond learned positions, and lets rotary models try, with a warning', async () => {
    const tokenIds = new Int32Array(1100).fill(7)
    const warnings: SlimWarning[] = []
    const onWarning = (warning: SlimWarning) => warnings.push(warning)
    const { perplexity } = await evaluatePerplexity(model, { tokenIds, seqLen: 1100, onWarning })
    expect(perplexity).toBeGreaterThan(0)
    expect(warnings).toMatchObject([{ code: 'SLIM_BEYOND_POSITIONS', parameter: 'seqLen' }])
    await evaluatePerplexity(model, { tokenIds, seqLen: 1024, onWarning })
    expect(warnings).toHaveLength(1)
    await using opt = await loadModel(optFolder)
    const { maxPositions } = opt.spec
    expect((await evaluatePerplexity(opt, { tokenIds, seqLen: maxPositions })).tokens).toBeGreaterThan(0)
    expect(await rejection(evaluatePerplexity(opt, { tokenIds, seqLen: maxPositions + 1 }))).toMatchObject({
      code: 'SLIM_INVALID_ARGUMENT',
      parameter: 'seqLen',
    })
    expect(await rejection(opt.generate([7], { maxTokens: maxPositions + 1 }).next())).toMatchObject({
      code: 'SLIM_CONTEXT_LENGTH',
      parameter: 'maxTokens',
    })
  })
})
