import { existsSync } from 'node:fs'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import type { FloatDType, NativeDecoderModel, NativeKvCache } from '../../lib/native/addon.js'
import { addon, run } from '../../lib/native/addon.js'
import { type EmulatedDevice, hasEmulator, loadOnDevice, openEmulated } from '../support/cuda.js'
import {
  FAMILIES,
  type LoadedDecoder,
  largestDifference,
  loadFixture,
  randomIds,
  randomTensor,
} from '../support/decoder.js'
import { runChild } from '../support/native_child.js'
import { randomParts, tensorsOf } from '../support/packed.js'
import { uniform } from '../support/random.js'
import { randomBlock, specs } from '../support/random_block.js'
import { logSoftmax, makeSampler, stepLogprobs } from '../support/step.js'
import { temporaryFolder } from '../support/temporary.js'

const folder = temporaryFolder()
const skip = !hasEmulator()
const emulated: EmulatedDevice | null = skip ? null : openEmulated()
afterAll(() => emulated?.close())

/** The likeliest token of every step, `count` times. */
async function greedy(model: NativeDecoderModel, prompt: Int32Array, count: number): Promise<number[]> {
  const cache = model.cache(prompt.length + count)
  const sampler = makeSampler()
  const tokens: number[] = []
  for (let ids = prompt; tokens.length < count; ids = Int32Array.of(tokens.at(-1)!)) {
    const [token] = await run(model.step([{ cache, ids, sampler }], 1))
    tokens.push(token!.tokenId)
  }
  cache.dispose()
  sampler.dispose()
  return tokens
}

describe.skipIf(skip).each(FAMILIES)('%s on the emulated device', (family) => {
  // Keys and values are float16 on the device: against the CPU's float32 pass as far as its own float16 caches are.
  it('gives the logits of the CPU', async () => {
    const decoder = await loadFixture(family)
    const model = await loadOnDevice(emulated!.device, decoder)
    const ids = randomIds(21, decoder.spec.vocabSize, 5)
    const expected = await run(decoder.model.logits(ids, 1))
    expect(largestDifference(await run(model.logits(ids, 1)), expected)).toBeLessThan(1e-2)
    model.dispose()
  })

  it('generates the tokens of the CPU', async () => {
    const decoder = await loadFixture(family)
    const model = await loadOnDevice(emulated!.device, decoder)
    const prompt = randomIds(11, decoder.spec.vocabSize, 6)
    expect(await greedy(model, prompt, 10)).toEqual(await greedy(decoder.model, prompt, 10))
    model.dispose()
  })
})

/** Blocks of odd shapes, with learned positions and no final norm. */
function randomModel(name: string): LoadedDecoder {
  const { spec, weights } = randomBlock(name)
  const { hiddenSize } = spec
  const blocks = [1, 2].map(() => new (addon().DecoderBlock)(spec, weights))
  const embedding = {
    embedding: randomTensor([VOCAB, hiddenSize], 50),
    positions: { weight: randomTensor([POSITIONS + 2, hiddenSize], 51, 0.3), offset: 2 },
    embeddingScale: 1.5,
  }
  const head = { head: randomTensor([VOCAB, hiddenSize], 52) }
  const model = new (addon().DecoderModel)({ ...embedding, ...head, blocks, logitSoftcap: 20 })
  return {
    spec: { logitSoftcap: 20, vocabSize: VOCAB } as LoadedDecoder['spec'],
    embedding,
    head,
    blocks,
    model,
  }
}
const VOCAB = 61
const POSITIONS = 400

describe.skipIf(skip).each(Object.keys(specs))('a random block %s on the emulated device', (name) => {
  it('gives what the CPU gives, prompt by chunks and token by token', async () => {
    const { model: expected, ...decoder } = randomModel(name)
    const model = await loadOnDevice(emulated!.device, { ...decoder, model: expected })
    const ids = randomIds(78, VOCAB, 3)
    const [onCpu, onDevice] = [expected.cache(80), model.cache(80)]
    let done = 0
    for (const count of [13, 1, 1, 1, 48, 1, 13]) {
      const chunk = ids.subarray(done, done + count)
      done += count
      const given = await stepLogprobs(model, onDevice, chunk, VOCAB)
      expect(onDevice.length).toBe(done)
      expect(largestDifference(given, await stepLogprobs(expected, onCpu, chunk, VOCAB))).toBeLessThan(2e-2)
    }
    onDevice.dispose()
    model.dispose()
  })
})

describe.skipIf(skip)('a model on the emulated device', () => {
  const open = async (family: string, dtype?: FloatDType) => {
    const decoder = await loadFixture(family, dtype)
    return { ...decoder, onDevice: await loadOnDevice(emulated!.device, decoder) }
  }

  // Weights of 16 bits are exact; prompts' activations are rounded to 11 bits.
  it.each(['F16', 'BF16'] as const)('takes weights in %s as they are', async (dtype) => {
    for (const family of ['llama', 'opt']) {
      const { model, onDevice, spec } = await open(family, dtype)
      const ids = randomIds(75, spec.vocabSize, 8)
      const [given, expected] = [await run(onDevice.logits(ids, 1)), await run(model.logits(ids, 1))]
      expect(largestDifference(given, expected)).toBeLessThan(2e-2)
      const cache = onDevice.cache(80)
      const row = await stepLogprobs(onDevice, cache, ids.subarray(0, 5), spec.vocabSize)
      const last = expected.subarray(4 * spec.vocabSize, 5 * spec.vocabSize)
      expect(largestDifference(row, logSoftmax(last))).toBeLessThan(2e-2)
      cache.dispose()
      onDevice.dispose()
    }
  })

  it('steps through pages and slices of long caches', async () => {
    const { model, onDevice, spec } = await open('mistral-window')
    const llama = await open('llama')
    for (const { model: cpu, onDevice: device } of [{ model, onDevice }, llama]) {
      const ids = randomIds(300, spec.vocabSize, 4)
      const [onCpu, cache] = [cpu.cache(300), device.cache(300)]
      const chunks = [250, 1, 1, 3, 1, 1, 8, 1]
      let done = 0
      for (const count of chunks) {
        const chunk = ids.subarray(done, done + count)
        done += count
        const given = await stepLogprobs(device, cache, chunk, spec.vocabSize)
        expect(largestDifference(given, await stepLogprobs(cpu, onCpu, chunk, spec.vocabSize))).toBeLessThan(
          1e-2,
        )
      }
      cache.dispose()
      device.dispose()
    }
  })

  it('runs sequences of different lengths in one step, each as if alone', async () => {
    const { onDevice: model, spec } = await open('gemma2')
    const prompts = [
      randomIds(5, spec.vocabSize, 1),
      randomIds(70, spec.vocabSize, 2),
      randomIds(1, spec.vocabSize, 3),
    ]
    const alone = []
    for (const prompt of prompts) alone.push(await greedy(model, prompt, 6))
    const caches = prompts.map((prompt) => model.cache(prompt.length + 6))
    const samplers = prompts.map(() => makeSampler())
    let next = prompts
    const together: number[][] = prompts.map(() => [])
    for (let t = 0; t < 6; t++) {
      const tokens = await run(
        model.step(
          next.map((ids, i) => ({ cache: caches[i]!, ids, sampler: samplers[i]! })),
          1,
        ),
      )
      next = tokens.map((token) => Int32Array.of(token!.tokenId))
      for (const [i, token] of tokens.entries()) together[i]!.push(token!.tokenId)
    }
    expect(together).toEqual(alone)
    for (const cache of caches) cache.dispose()
    model.dispose()
  })

  it('gives the same bytes twice, recorded or not', async () => {
    const { onDevice: model, spec } = await open('qwen3')
    const ids = randomIds(12, spec.vocabSize, 9)
    const steps = async () => {
      const cache = model.cache(20)
      const rows = [await stepLogprobs(model, cache, ids.subarray(0, 7), spec.vocabSize)]
      for (const id of ids.subarray(7))
        rows.push(await stepLogprobs(model, cache, Int32Array.of(id), spec.vocabSize))
      cache.dispose()
      return rows
    }
    expect(await steps()).toEqual(await steps())
    expect(await run(model.logits(ids, 1))).toEqual(await run(model.logits(ids, 1)))
    model.dispose()
  })

  it('shares the pages of a common beginning until one of the caches writes there', async () => {
    const { onDevice: model, spec } = await open('llama')
    const ids = randomIds(100, spec.vocabSize, 7)
    const first = model.cache(110)
    await stepLogprobs(model, first, ids, spec.vocabSize)
    const second = model.cache(110)
    second.copyPrefix(first, 90)
    const other = Int32Array.of(3, 1, 4)
    const shared = await stepLogprobs(model, second, other, spec.vocabSize)
    const third = model.cache(110)
    const fresh = await stepLogprobs(
      model,
      third,
      Int32Array.of(...ids.subarray(0, 90), ...other),
      spec.vocabSize,
    )
    expect(largestDifference(shared, fresh)).toBeLessThan(5e-3)
    first.truncate(90)
    const again = await stepLogprobs(model, first, other, spec.vocabSize)
    expect(again).toEqual(shared)
    for (const cache of [first, second, third]) cache.dispose()
    model.dispose()
  })

  it('measures likelihoods, and itself against the CPU', async () => {
    const { model, onDevice, spec } = await open('phi3')
    const ids = randomIds(30, spec.vocabSize, 10)
    const { nll, referenceNll, kl } = await run(onDevice.compare(model, ids, 1))
    expect(largestDifference(nll, referenceNll)).toBeLessThan(1e-2)
    expect(Math.max(...kl)).toBeLessThan(1e-4)
    expect(await run(onDevice.tokenNll(ids, 1))).toEqual(nll)
    onDevice.dispose()
  })

  it('takes packed layers, embedding and head', async () => {
    const { blocks, spec, parts } = await packedModel()
    const model = new (addon().DecoderModel)({ ...parts, blocks, logitSoftcap: 0 })
    const builder = new (addon().CudaModelBuilder)(emulated!.device)
    for (const block of blocks) await run(builder.addBlock(block, 1))
    const onDevice = await run(builder.finish({ ...parts, logitSoftcap: 0 }, 1))
    const ids = randomIds(20, spec.vocab, 2)
    const [given, expected] = [await run(onDevice.logits(ids, 1)), await run(model.logits(ids, 1))]
    const largest = Math.max(...expected.map(Math.abs))
    expect(largestDifference(given, expected)).toBeLessThan(5e-3 * largest)
    expect(await greedy(onDevice, ids, 10)).toEqual(await greedy(model, ids, 10))
    onDevice.dispose()
  })

  it('gives its memory back', async () => {
    const { device } = emulated!
    const before = device.usedBytes
    const { onDevice: model, spec } = await open('llama')
    const weights = device.usedBytes
    expect(weights).toBeGreaterThan(before)
    await greedy(model, randomIds(4, spec.vocabSize, 1), 4)
    await run(model.logits(randomIds(4, spec.vocabSize, 1), 1))
    model.dispose()
    expect(device.usedBytes).toBe(before)
  })

  it('leaves nothing on the device when the process ends', () => {
    const findings = path.join(folder, 'findings.jsonl')
    const spec = randomBlock('like LLaMA').spec
    const tokens = runChild<number>(
      `const zeros = (...shape) => ({ weight: native.allocateTensor('F32', shape) })
       const spec = ${JSON.stringify({ ...spec, rotary: null })}
       const block = new native.DecoderBlock(spec, {
         linears: { q: zeros(24, 20), k: zeros(12, 20), v: zeros(12, 20), o: zeros(20, 24),
                    gate: zeros(8, 20), up: zeros(8, 20), down: zeros(20, 8) },
         norms: { input: zeros(20), preMlp: zeros(20) } })
       const device = new native.CudaDevice(0)
       const builder = new native.CudaModelBuilder(device)
       await builder.addBlock(block, 1).promise
       const table = zeros(5, 20).weight
       const parts = { embedding: table, embeddingScale: 1, head: table, logitSoftcap: 0 }
       const model = await builder.finish(parts, 1).promise
       const cache = model.cache(9)
       const sampler = new native.Sampler({})
       for (let t = 0; t < 4; t++) await model.step([{ cache, ids: Int32Array.of(t), sampler }], 1).promise
       cache.dispose(), model.dispose(), builder.dispose(), device.dispose()
       return cache.length + 4`,
      { SLIM_EMULATOR_FINDINGS: findings },
    )
    expect(tokens).toBe(4)
    expect(existsSync(findings)).toBe(false)
  })

  it('refuses what does not run there, by its name', async () => {
    const { onDevice: model, spec } = await open('opt')
    for (const dtype of ['I8', 'F32'] as const)
      expect(() => model.cache(8, dtype)).toThrow(expect.objectContaining({ parameter: 'dtype' }))
    const cache: NativeKvCache = model.cache(4)
    await expect(run(model.step([{ cache, ids: new Int32Array(5) }], 1))).rejects.toMatchObject({
      parameter: 'sequences[0].ids',
    })
    await expect(run(model.logits(Int32Array.of(spec.vocabSize), 1))).rejects.toMatchObject({
      parameter: 'ids[0]',
    })
    await expect(run(model.logits(new Int32Array(300), 1))).rejects.toMatchObject({ parameter: 'ids' })
    cache.dispose()
    model.dispose()
  })
})

/** A block, an embedding that is the head too, all packed in mixed widths. */
async function packedModel() {
  const [hidden, heads, kvHeads, headDim, inner, vocab] = [64, 4, 2, 16, 96, 59]
  let seed = 20
  const packed = async (rows: number, cols: number) => {
    const random = uniform(seed++)
    const groups = Math.ceil(cols / 32)
    const bits = Uint8Array.from({ length: groups }, () => 1 + Math.floor(random() * 4))
    return { weight: new (addon().PackedMatrix)(await tensorsOf(await randomParts(rows, cols, 32, bits))) }
  }
  const norm = () => ({ weight: randomTensor([hidden], seed++) })
  const spec = {
    hiddenSize: hidden,
    heads,
    kvHeads,
    headDim,
    norm: { kind: 'rms', eps: 1e-5, unitOffset: false },
    rotary: { dim: 4, inverseFrequencies: Float32Array.of(1, 0.1), scale: 1 },
    attention: { scale: 0.01, softcap: 0, window: 0 },
    qkvLayout: 'separate',
    activation: 'silu',
    mlp: 'gated',
    residual: 'sequential',
  } as const
  const block = new (addon().DecoderBlock)(spec, {
    linears: {
      q: await packed(heads * headDim, hidden),
      k: await packed(kvHeads * headDim, hidden),
      v: await packed(kvHeads * headDim, hidden),
      o: await packed(hidden, heads * headDim),
      gate: await packed(inner, hidden),
      up: await packed(inner, hidden),
      down: await packed(hidden, inner),
    },
    norms: { input: norm(), preMlp: norm() },
  })
  const table = (await packed(vocab, hidden)).weight
  const parts = { embedding: table, embeddingScale: 1, head: table, finalNorm: norm() }
  return { blocks: [block], parts, spec: { vocab } }
}
