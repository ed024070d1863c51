/**
 * The decoder's kernels against the CPU over odd shapes: a block of one shape on random states, as prompts and token by
 * token. The emulator refuses what a GPU would not.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { BlockSpec } from '../../lib/architecture/index.js'
import { addon, type BlockWeights, type FloatDType, run } from '../../lib/native/addon.js'
import { type EmulatedDevice, hasEmulator, loadOnDevice, openEmulated } from '../support/cuda.js'
import { type LoadedDecoder, largestDifference, randomIds, randomTensor } from '../support/decoder.js'
import { randomBlockOf } from '../support/random_block.js'
import { stepLogprobs } from '../support/step.js'

const skip = !hasEmulator()
let emulated: EmulatedDevice
beforeAll(() => {
  if (!skip) emulated = openEmulated()
})
afterAll(() => emulated?.close())

const VOCAB = 23

interface Shape {
  spec: Partial<BlockSpec>
  inner?: number
  dtype?: FloatDType
  /** Tokens of the steps, one after the other. */
  steps?: number[]
}

async function converted({ linears, norms }: BlockWeights, dtype: FloatDType): Promise<BlockWeights> {
  const entries = Object.entries(linears).map(async ([role, { weight, bias }]) => [
    role,
    { weight: await run(addon().convertTensor(weight as ReturnType<typeof randomTensor>, dtype, 1)), bias },
  ])
  return { linears: Object.fromEntries(await Promise.all(entries)), norms }
}

async function check({ spec: partial, inner, dtype = 'F32', steps = [9, 1, 70, 2] }: Shape) {
  const { spec, weights } = randomBlockOf({ spec: partial, bias: true }, inner)
  const { hiddenSize } = spec
  const table = (seed: number) =>
    run(addon().convertTensor(randomTensor([VOCAB, hiddenSize], seed), dtype, 1))
  const blocks = [new (addon().DecoderBlock)(spec, await converted(weights, dtype))]
  const embedding = { embedding: await table(50), embeddingScale: 1 }
  const head = { head: await table(51) }
  const cpu = new (addon().DecoderModel)({ ...embedding, ...head, blocks, logitSoftcap: 0 })
  const decoder = {
    spec: { logitSoftcap: 0 },
    embedding,
    head,
    blocks,
    model: cpu,
  } as unknown as LoadedDecoder
  const model = await loadOnDevice(emulated.device, decoder)
  const ids = randomIds(
    steps.reduce((a, b) => a + b),
    VOCAB,
    hiddenSize,
  )
  const [onCpu, onDevice] = [cpu.cache(ids.length), model.cache(ids.length)]
  let done = 0
  for (const count of steps) {
    const chunk = ids.subarray(done, done + count)
    const expected = await stepLogprobs(cpu, onCpu, chunk, VOCAB)
    const largest = Math.max(...expected.map(Math.abs))
    const given = await stepLogprobs(model, onDevice, chunk, VOCAB)
    // 11 bits of queries, weights of softmax, and of inputs where weights have 16 bits.
    expect(largestDifference(given, expected)).toBeLessThan(4e-3 * largest)
    done += count
  }
  onDevice.dispose()
  model.dispose()
}

const attention = (
  heads: number,
  kvHeads: number,
  headDim: number,
  others: Partial<BlockSpec['attention']> = {},
) => ({
  heads,
  kvHeads,
  headDim,
  rotary: null,
  attention: { scale: 0.3 * headDim ** -0.5, softcap: 0, window: 0, ...others },
})

describe.skipIf(skip)('attention on the emulated device', () => {
  for (const headDim of [1, 7, 16, 40, 64, 80, 100, 128, 200, 256])
    it(`is right for heads of ${headDim}`, () => check({ spec: attention(2, 1, headDim) }))

  for (const [heads, kvHeads] of [
    [1, 1],
    [3, 1],
    [6, 2],
    [7, 1],
    [12, 1],
    [16, 2],
    [5, 5],
  ] as const)
    it(`is right for ${heads} heads that share ${kvHeads} of keys`, () =>
      check({ spec: attention(heads, kvHeads, 8) }))

  for (const window of [1, 3, 63, 64, 65, 100])
    it(`is right for a window of ${window}`, () =>
      check({ spec: attention(2, 1, 8, { window }), steps: [150, 1, 1, 30, 3, 1] }))

  it('caps scores', () => check({ spec: attention(4, 2, 16, { softcap: 0.5, scale: 1 }) }))

  it('is right for caches of many pages', () =>
    check({ spec: attention(2, 1, 8), steps: [300, 1, 270, 1, 4, 1, 60, 1] }))

  for (const dim of [2, 6, 10])
    it(`turns ${dim} of 10 elements`, () =>
      check({
        spec: {
          ...attention(2, 2, 10),
          rotary: {
            dim,
            inverseFrequencies: Float32Array.from({ length: dim / 2 }, (_, i) => 10 ** -i),
            scale: 1.2,
          },
        },
      }))
})

describe.skipIf(skip)('dense products on the emulated device', () => {
  for (const dtype of ['F32', 'F16', 'BF16'] as const)
    for (const [hiddenSize, inner] of [
      [8, 24],
      [24, 136],
      [40, 7],
      [136, 264],
      [21, 33],
    ] as const)
      it(`are right for ${dtype} of ${hiddenSize} and ${inner}`, () =>
        check({ spec: { ...attention(2, 1, 8), hiddenSize }, inner, dtype, steps: [1, 8, 9, 66, 1, 1] }))
})

describe.skipIf(skip)('states on the emulated device', () => {
  for (const hiddenSize of [1, 31, 257, 520])
    it(`of ${hiddenSize} are normed`, () =>
      check({ spec: { ...attention(1, 1, 4), hiddenSize }, steps: [5, 1] }))

  it('of layer norms are', () =>
    check({
      spec: { ...attention(1, 1, 4), hiddenSize: 300, norm: { kind: 'layer', eps: 1e-5, unitOffset: false } },
    }))

  for (const activation of ['silu', 'gelu', 'geluTanh', 'relu'] as const)
    it(`go through ${activation}`, () =>
      check({ spec: { ...attention(1, 1, 4), activation }, inner: 300, steps: [5, 1] }))
})
