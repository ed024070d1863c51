/** Models from files on the emulated device, through the public functions. */
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { evaluatePerplexity, loadModel, type Model, quantize } from '../../lib/index.js'
import { hasEmulator, openEmulated } from '../support/cuda.js'
import { largestDifference } from '../support/decoder.js'
import { demo, heldoutFile, rejection, small } from '../support/demo.js'
import { writeGguf } from '../support/gguf.js'
import { temporaryFolder } from '../support/temporary.js'
import { tinyLlama } from '../support/tiny_llama.js'

const skip = !hasEmulator()
const folder = temporaryFolder()
const emulated = skip ? null : openEmulated()
afterAll(() => emulated?.close())

/** Token ids that a model generates by itself, without sampling. */
async function generated(model: Model, prompt: number[], maxTokens: number): Promise<number[]> {
  const tokens: number[] = []
  for await (const { tokenId } of model.generate(prompt, { maxTokens, temperature: 0 })) tokens.push(tokenId)
  return tokens
}

describe.skipIf(skip)("loadModel with device 'cuda', on the emulated driver", () => {
  it('runs a GGUF file: logits, texts, sessions', async () => {
    const file = writeGguf(path.join(folder, 'tiny.gguf'), tinyLlama().input)
    await using model = await loadModel(file, { device: 'cuda' })
    await using cpu = await loadModel(file, { device: 'cpu', activations: 'float32' })
    const ids = [3, 70, 12, 200, 5]
    const expected = await cpu.logits(ids)
    const largest = Math.max(...expected.map(Math.abs))
    expect(largestDifference(await model.logits(ids), expected)).toBeLessThan(2e-2 * largest)
    expect(await generated(model, ids, 10)).toEqual(await generated(cpu, ids, 10))
    const session = model.session({ maxSequences: 2 })
    const texts = [ids, [4, 5, 6]].map(async (prompt) => {
      const tokens: number[] = []
      for await (const { tokenId } of session.generate(prompt, { maxTokens: 4 })) tokens.push(tokenId)
      return tokens
    })
    expect((await Promise.all(texts))[0]).toEqual(await generated(model, ids, 4))
    await session.dispose()
  })

  it('runs a packed folder, and measures it', async () => {
    const output = path.join(folder, 'packed')
    await quantize(demo, small(output, { method: 'rtn', calibration: undefined, bits: 3 }))
    await using model = await loadModel(output, { device: 'cuda' })
    await using cpu = await loadModel(output, { activations: 'float32' })
    const ids = [5, 900, 31, 77, 1200, 8]
    const [given, expected] = [await model.logits(ids), await cpu.logits(ids)]
    expect(largestDifference(given, expected)).toBeLessThan(5e-2)
    expect(await generated(model, ids, 3)).toEqual(await generated(cpu, ids, 3))
    const options = { file: heldoutFile, seqLen: 16, maxTokens: 16 }
    const measured = await evaluatePerplexity(model, { ...options, reference: cpu })
    expect(measured.perplexity).toBeCloseTo((await evaluatePerplexity(cpu, options)).perplexity, 1)
  })

  it('is disposed', async () => {
    const file = writeGguf(path.join(folder, 'again.gguf'), tinyLlama().input)
    const model = await loadModel(file, { device: 'cuda' })
    await generated(model, [1, 2, 3], 3)
    await model.dispose()
    expect(await rejection(model.logits([1]))).toMatchObject({ code: 'SLIM_DISPOSED' })
  })

  it('refuses what it does not do there', async () => {
    const file = writeGguf(path.join(folder, 'refused.gguf'), tinyLlama().input)
    expect(await rejection(loadModel(file, { device: 'cuda', activations: 'float32' }))).toMatchObject({
      code: 'SLIM_INVALID_ARGUMENT',
      parameter: 'activations',
    })
    await using model = await loadModel(file, { device: 'cuda' })
    const generation = model.generate([1, 2], { maxTokens: 1, kvCache: 'int8' })
    expect(await rejection(generation[Symbol.asyncIterator]().next())).toMatchObject({ parameter: 'kvCache' })
    expect(() => model.session({ kvCache: 'int8' })).toThrow(
      expect.objectContaining({ parameter: 'kvCache' }),
    )
  })
})

describe("loadModel with device 'cuda'", () => {
  it('says what is missing without a driver', async () => {
    const before = process.env.SLIMLLM_CUDA_DRIVER
    process.env.SLIMLLM_CUDA_DRIVER = path.join(folder, 'no-such-driver.so')
    expect(await rejection(loadModel(demo, { device: 'cuda' }))).toMatchObject({
      code: 'SLIM_DEVICE_UNAVAILABLE',
      message: expect.stringContaining('no-such-driver.so'),
    })
    if (before === undefined) delete process.env.SLIMLLM_CUDA_DRIVER
    else process.env.SLIMLLM_CUDA_DRIVER = before
  })
})
