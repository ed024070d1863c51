import { afterAll, describe, expect, it } from 'vitest'
import { addon, type HeadGradient, type HeadOptions, type NativeTensor, run } from '../../lib/native/addon.js'
import { hasEmulator, onGpu, openEmulated } from '../support/cuda.js'
import { largestDifference, randomTensor } from '../support/decoder.js'
import { randomParts, tensorsOf } from '../support/packed.js'

const native = addon()
const skip = !hasEmulator()
const emulated = skip ? null : openEmulated()
afterAll(() => emulated?.close())

const [vocab, hidden] = [67, 20]
const rms = { kind: 'rms', eps: 1e-5, unitOffset: false } as const
const head = randomTensor([vocab, hidden], 1)
const plain = { head, norm: rms, logitSoftcap: 0 } as const

/** Variants of what lies between the states and the likelihoods. */
const heads: Record<string, Omit<HeadOptions, 'sequenceLength'>> = {
  'with an RMS norm': { ...plain, finalNorm: { weight: randomTensor([hidden], 2) } },
  'with a unit offset and softcapped logits': {
    ...plain,
    finalNorm: { weight: randomTensor([hidden], 2) },
    norm: { ...rms, unitOffset: true },
    logitSoftcap: 3,
  },
  'with a layer norm': {
    ...plain,
    finalNorm: { weight: randomTensor([hidden], 2), bias: randomTensor([hidden], 3) },
    norm: { ...rms, kind: 'layer' },
  },
  'without a norm': plain,
  'in bfloat16': { ...plain, head: await run(native.convertTensor(head, 'BF16', 1)) },
  'of more than a chunk of the vocabulary': { ...plain, head: randomTensor([2500, hidden], 1, 0.5) },
}

async function onDevice(states: NativeTensor, options: HeadOptions, onHost = false) {
  const { device } = emulated!
  const given = await run(device.states(states, { onHost }))
  const { gradients, ...result } = await run(device.headGradient(given, options, 2))
  const values = gradients.read()
  given.dispose()
  gradients.dispose()
  return { ...result, gradients: values }
}

/** Largest difference of the gradients over their largest, and of the likelihoods; the labels must be the same. */
function expectSame(found: HeadGradient<NativeTensor>, expected: HeadGradient<NativeTensor>) {
  expect(found.labels).toEqual(expected.labels)
  expect(found.count).toBe(expected.count)
  expect(Math.abs(found.nll - expected.nll)).toBeLessThan(1e-6 * (1 + expected.nll))
  const values = expected.gradients.toFloat32Array()
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
  expect(largestDifference(found.gradients.toFloat32Array(), values)).toBeLessThanOrEqual(3e-6 * largest)
}

describe.skipIf(skip).each(Object.keys(heads))('a head %s on the emulated device', (name) => {
  const options = heads[name]!
  const tokenLimit = (options.head as NativeTensor).shape[0]!

  it.each([
    [1, 3],
    [7, 2],
    [33, 3],
  ])('gives the CPU’s gradients: %i tokens, %i sequences', async (sequenceLength, sequences) => {
    const tokens = sequenceLength * sequences
    const states = randomTensor([tokens, hidden], 4, 2)
    const labels = Int32Array.from({ length: tokens }, (_, t) => (t * 31) % tokenLimit)
    for (const given of [{ labels }, { seed: 5, firstToken: 11 }]) {
      const all = { ...options, ...given, sequenceLength }
      expectSame(await onDevice(states, all), await run(native.headGradient(states, all, 2)))
    }
  })
})

describe.skipIf(skip)('headGradient on the emulated device', () => {
  it('takes a packed head', async () => {
    const parts = await randomParts(vocab, 32, 16, Uint8Array.of(4, 3))
    const packed = new native.PackedMatrix(await tensorsOf(parts))
    const dense = await run(packed.dequantize(1))
    const [states, options] = [randomTensor([12, 32], 4, 0.02), { ...plain, sequenceLength: 6 }]
    expectSame(
      await onDevice(states, { ...options, head: packed }),
      await run(native.headGradient(states, { ...options, head: dense }, 1)),
    )
  })

  it('takes likelihoods that vanish, and those of one token alone', async () => {
    const logits = new Float32Array(vocab * hidden).map((_, i) => (i % hidden ? 0 : 4 * (i / hidden)))
    const steep = { ...plain, head: native.tensorFrom(logits, 'F32', [vocab, hidden]), sequenceLength: 10 }
    const states = randomTensor([40, hidden], 4)
    expectSame(await onDevice(states, steep), await run(native.headGradient(states, steep, 1)))
  })

  it('draws as the model says', async () => {
    const tokens = 1500 // more than a tile
    const row = randomTensor([1, hidden], 6, 2).toFloat32Array()
    const same = Float32Array.from({ length: tokens * hidden }, (_, i) => row[i % hidden]!)
    const states = native.tensorFrom(same, 'F32', [tokens, hidden])
    const options = { ...plain, sequenceLength: tokens, seed: 1 }
    emulated!.launches()
    const [found, expected] = [
      await onDevice(states, options),
      await run(native.headGradient(states, options, 2)),
    ]
    expectSame(found, expected)
    expect(new Set(found.labels).size).toBeGreaterThan(10)
    const launches = emulated!.launches().filter(({ kernel }) => kernel === 'differentiateLikelihoods')
    expect(launches.length).toBe(onGpu ? 0 : 2) // tiles
    for (const launch of launches) expect(launch.sharedWavefronts).toBe(launch.minimumWavefronts)
  })

  it('gives the same bytes twice, wherever the states lie, and its memory back', async () => {
    const used = emulated!.device.usedBytes
    const options = { ...heads['with a layer norm']!, sequenceLength: 15 }
    const once = async (onHost: boolean) =>
      (await onDevice(randomTensor([30, hidden], 5), options, onHost)).gradients.toBytes()
    const bytes = await once(false)
    expect(await once(false)).toEqual(bytes)
    expect(await once(true)).toEqual(bytes)
    expect(emulated!.device.usedBytes).toBe(used)
  })

  it('refuses what does not fit, and stops where it is cancelled', async () => {
    const { device } = emulated!
    const states = await run(device.states(randomTensor([6, hidden], 1)))
    const gradient = async (changes: object) =>
      run(device.headGradient(states, { ...plain, sequenceLength: 6, ...changes }, 1))
    await expect(gradient({ sequenceLength: 4 })).rejects.toMatchObject({ parameter: 'sequenceLength' })
    await expect(gradient({ labels: new Int32Array(5) })).rejects.toMatchObject({ parameter: 'labels' })
    await expect(gradient({ labels: new Int32Array(6).fill(vocab) })).rejects.toMatchObject({
      parameter: 'labels[0]',
    })
    await expect(gradient({ head: randomTensor([vocab, 19], 1) })).rejects.toMatchObject({
      parameter: 'states',
    })
    states.dispose()
    const many = await run(device.states({ tokens: 4000, width: hidden }))
    const job = device.headGradient(many, { ...plain, sequenceLength: 4000 }, 1)
    job.cancel()
    await expect(run(job)).rejects.toMatchObject({ code: 'SLIM_ABORTED' })
    many.dispose()
  })
})
