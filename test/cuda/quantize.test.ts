/** quantize() with device 'cuda' on the emulated driver: two families from checkpoint to generated text. */
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { evaluatePerplexity, loadModel, type Model, type QuantizeOptions, quantize } from '../../lib/index.js'
import { packageRoot } from '../../lib/native/addon.js'
import { withByteTokenizer } from '../support/byte_tokenizer.js'
import { hasEmulator, onGpu, openEmulated } from '../support/cuda.js'
import { largestDifference } from '../support/decoder.js'
import { calibrationFile, contentHashes, heldoutFile } from '../support/demo.js'
import { temporaryFolder } from '../support/temporary.js'

const skip = !hasEmulator()
const folder = temporaryFolder()
const emulated = skip ? null : openEmulated()
afterAll(() => emulated?.close())

const calibration = { file: calibrationFile, samples: 4, seqLen: 32, seed: 0 }

function fixture(family: string): string {
  return withByteTokenizer(
    path.join(packageRoot(), 'test', 'fixtures', 'hf', family),
    path.join(folder, family),
  )
}

async function generated(model: Model, prompt: number[]): Promise<number[]> {
  const tokens: number[] = []
  for await (const { tokenId } of model.generate(prompt, { maxTokens: 10, temperature: 0 }))
    tokens.push(tokenId)
  return tokens
}

const PROMPT = [...Buffer.from('The old man')]

describe.skipIf(skip)("quantize with device 'cuda', on the emulated driver", () => {
  const cases: [family: string, options: Partial<QuantizeOptions>][] = [
    ['llama', { method: 'slim-paper', bits: 3, groupSize: 32 }],
    ['gpt-neox', { method: 'slim-paper', bits: 3, groupSize: 32 }],
    ['llama', { method: 'slim', bits: 3, groupSize: 32 }],
    ['gemma2', { method: 'slim', bits: 2, groupSize: 32 }],
    ['gemma2', { method: 'gptq', bits: 4, groupSize: 64 }],
  ]
  it.each(cases)('%s by %o: packed, loaded, run', async (family, options) => {
    const source = fixture(family)
    const make = (device: 'cpu' | 'cuda') =>
      quantize(source, {
        ...options,
        output: path.join(folder, `${family}-${options.method}-${device}`),
        calibration,
        device,
        threads: 2,
      })
    const [onCpu, onDevice] = [await make('cpu'), await make('cuda')]
    expect(onDevice.instructionSet).toMatch(/^cuda /)
    expect(onDevice.layers.map(({ groupBits }) => groupBits)).toEqual(
      onCpu.layers.map(({ groupBits }) => groupBits),
    )
    for (const [i, { name, relativeError }] of onDevice.layers.entries())
      expect(relativeError! / onCpu.layers[i]!.relativeError!, name).toBeCloseTo(1, 1)

    await using model = await loadModel(onDevice.output, { device: 'cuda' })
    await using same = await loadModel(onDevice.output, { activations: 'float32' })
    const expected = await same.logits(PROMPT)
    const largest = Math.max(...expected.map(Math.abs))
    expect(largestDifference(await model.logits(PROMPT), expected)).toBeLessThan(1e-2 * largest)
    expect(await generated(model, PROMPT)).toEqual(await generated(same, PROMPT))

    await using cpu = await loadModel(onCpu.output, { activations: 'float32' })
    const text = { file: heldoutFile, seqLen: 64, maxTokens: 1024 }
    const [ours, theirs] = [await evaluatePerplexity(same, text), await evaluatePerplexity(cpu, text)]
    expect(Math.abs(Math.log(ours.perplexity / theirs.perplexity))).toBeLessThan(0.02)
  })

  it('gives the same bytes again, also continued after an interruption', async () => {
    const source = fixture('llama-tied')
    const options: QuantizeOptions = {
      output: path.join(folder, 'again'),
      method: 'slim',
      bits: 2,
      groupSize: 32,
      calibration,
      device: 'cuda',
      threads: 1,
    }
    await quantize(source, options)
    const continued = { ...options, output: path.join(folder, 'continued'), threads: 2 }
    const stop = new AbortController()
    const onProgress: QuantizeOptions['onProgress'] = ({ block, phase }) => {
      if (block === 1 && phase === 'quantize') stop.abort()
    }
    await expect(quantize(source, { ...continued, onProgress, signal: stop.signal })).rejects.toMatchObject({
      code: 'SLIM_ABORTED',
    })
    await quantize(source, continued)
    expect(contentHashes(continued.output)).toEqual(contentHashes(options.output))
  })

  it('tells people of the device, and of what to do where its memory is full', () => {
    const quantizeWith = (output: string, env: Record<string, string> = {}) => {
      const options = { method: 'gptq', bits: 4, 'group-size': 32, samples: 1, 'seq-len': 32, device: 'cuda' }
      const args = Object.entries({ ...options, output: path.join(folder, output) }).flatMap(
        ([name, value]) => [`--${name}`, String(value)],
      )
      const cli = path.join(packageRoot(), 'dist', 'cli', 'main.js')
      return spawnSync(
        process.execPath,
        [cli, 'quantize', fixture('llama'), '--calibration', calibrationFile, ...args],
        { encoding: 'utf8', env: { ...process.env, ...env } },
      )
    }
    expect(quantizeWith('told').stdout).toMatch(/^on cuda \S+, .+, at most [\d.]+ [kM]B of its memory$/m)
    if (onGpu) return
    const failed = quantizeWith('full', { SLIM_EMULATOR_MEMORY: String(2 ** 18) })
    expect(failed.status).toBe(1)
    expect(failed.stderr).toMatch(
      /bytes of device memory for [\s\S]*fewer or shorter calibration windows .*device 'cpu'/,
    )
  })
})
