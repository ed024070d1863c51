import { describe, expect, it } from 'vitest'
import { addon, type HeadOptions, run } from '../../../lib/native/addon.js'
import { largestDifference, randomFloats, randomTensor } from '../../support/decoder.js'

const [vocab, hidden] = [67, 20]
const rms = { kind: 'rms', eps: 1e-5, unitOffset: false } as const

/** Variants of what lies between the states and the likelihoods. */
const heads: Record<string, Omit<HeadOptions, 'sequenceLength'>> = {
  'with an RMS norm': {
    head: randomTensor([vocab, hidden], 1),
    finalNorm: { weight: randomTensor([hidden], 2) },
    norm: rms,
    logitSoftcap: 0,
  },
  'with a unit offset and softcapped logits': {
    head: randomTensor([vocab, hidden], 1),
    finalNorm: { weight: randomTensor([hidden], 2) },
    norm: { ...rms, unitOffset: true },
    logitSoftcap: 3,
  },
  'with a layer norm': {
    head: randomTensor([vocab, hidden], 1),
    finalNorm: { weight: randomTensor([hidden], 2), bias: randomTensor([hidden], 3) },
    norm: { ...rms, kind: 'layer' },
    logitSoftcap: 0,
  },
  'without a norm': { head: randomTensor([vocab, hidden], 1), norm: rms, logitSoftcap: 0 },
}

/** −ln p(label) of one state, in float64. */
function tokenLoss(
  { head, finalNorm, norm, logitSoftcap }: (typeof heads)[string],
  x: number[],
  label: number,
) {
  const w = 'dequantize' in head ? [] : head.toFloat32Array()
  let state = x
  if (finalNorm) {
    const scale = finalNorm.weight.toFloat32Array()
    const bias = finalNorm.bias?.toFloat32Array()
    const mean = norm.kind === 'layer' ? x.reduce((a, b) => a + b) / hidden : 0
    const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / hidden
    state = x.map(
      (value, i) =>
        ((value - mean) / Math.sqrt(variance + norm.eps)) * (scale[i]! + (norm.unitOffset ? 1 : 0)) +
        (bias?.[i] ?? 0),
    )
  }
  const logits = Array.from({ length: vocab }, (_, v) => {
    const logit = state.reduce((sum, value, i) => sum + value * w[v * hidden + i]!, 0)
    return logitSoftcap ? logitSoftcap * Math.tanh(logit / logitSoftcap) : logit
  })
  return Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0)) - logits[label]!
}

describe.each(Object.keys(heads))('a head %s', (name) => {
  const head = heads[name]!

  it.each([
    [1, 3],
    [7, 2],
    [33, 3],
  ])('agrees with central differences of float64: %i tokens, %i sequences', async (length, sequences) => {
    const tokens = length * sequences
    const states = randomTensor([tokens, hidden], 4, 2)
    const labels = Int32Array.from({ length: tokens }, (_, t) => (t * 31) % vocab)
    const result = await run(addon().headGradient(states, { ...head, sequenceLength: length, labels }, 2))
    const x = states.toFloat32Array()
    const found = result.gradients.toFloat32Array()
    const expected = new Float64Array(found.length)
    let nll = 0
    for (let t = 0; t < tokens; t++) {
      if ((t + 1) % length === 0) continue
      const row = Array.from(x.subarray(t * hidden, (t + 1) * hidden))
      nll += tokenLoss(head, row, labels[t]!)
      for (let i = 0; i < hidden; i++) {
        const moved = (h: number) => tokenLoss(head, row.with(i, row[i]! + h), labels[t]!)
        expected[t * hidden + i] = (moved(1e-5) - moved(-1e-5)) / 2e-5
      }
    }
    expect(largestDifference(found, expected)).toBeLessThan(1e-5)
    expect(Math.abs(result.nll - nll)).toBeLessThan(1e-5 * (1 + nll))
    expect(result.count).toBe((length - 1) * sequences)
    expect(result.labels).toEqual(labels.map((label, t) => ((t + 1) % length === 0 ? -1 : label)))
  })

  it('gives with its drawn labels what it gives when they are given', async () => {
    const states = randomTensor([90, hidden], 5, 2)
    const drawn = await run(addon().headGradient(states, { ...head, sequenceLength: 30, seed: 9 }, 2))
    const { labels } = drawn
    const given = await run(addon().headGradient(states, { ...head, sequenceLength: 30, labels }, 1))
    expect(drawn.gradients.toBytes()).toEqual(given.gradients.toBytes())
    expect(Math.abs(drawn.nll - given.nll)).toBeLessThan(1e-4)
  })
})

describe('drawn labels', () => {
  const head = heads['with an RMS norm']!

  it('are distributed as the model says', async () => {
    const tokens = 20_000
    const row = randomFloats(hidden, 6, 2)
    const states = new Float32Array(tokens * hidden)
    for (let t = 0; t < tokens; t++) states.set(row, t * hidden)
    const options = { ...head, sequenceLength: tokens, seed: 1 }
    const tensor = addon().tensorFrom(states, 'F32', [tokens, hidden])
    const { labels } = await run(addon().headGradient(tensor, options, 2))
    const counts = new Float64Array(vocab)
    for (const label of labels) if (label >= 0) counts[label]!++
    let chiSquare = 0
    for (let v = 0; v < vocab; v++) {
      const expected = (tokens - 1) * Math.exp(-tokenLoss(head, Array.from(row), v))
      chiSquare += (counts[v]! - expected) ** 2 / expected
    }
    // 66 degrees of freedom: 66 ± 11.5.
    expect(chiSquare).toBeGreaterThan(30)
    expect(chiSquare).toBeLessThan(120)
  })

  it('depend on the seed and on the place of the token, not on threads or on what is computed together', async () => {
    const tokens = 1500 // three tiles
    const states = randomTensor([tokens, hidden], 7, 2)
    const draw = (tensor: typeof states, seed: number, threads: number, firstToken = 0) =>
      run(
        addon().headGradient(
          tensor,
          { ...head, sequenceLength: tensor.shape[0]!, seed, firstToken },
          threads,
        ),
      )
    const [one, two] = [await draw(states, 3, 1), await draw(states, 3, 2)]
    expect(two!.labels).toEqual(one!.labels)
    expect(two!.gradients.toBytes()).toEqual(one!.gradients.toBytes())
    expect(two!.nll).toBe(one!.nll)
    const tail = states.toFloat32Array().slice(700 * hidden)
    const part = await draw(addon().tensorFrom(tail, 'F32', [tokens - 700, hidden]), 3, 2, 700)
    expect(part.labels).toEqual(one!.labels.slice(700))
    const other = await draw(states, 4, 2)
    expect(other.labels.filter((label, t) => label !== one!.labels[t]).length).toBeGreaterThan(500)
  })
})

describe('a head of many rows', () => {
  it('gives in F16 what its float32 copy gives', async () => {
    const half = await run(addon().convertTensor(randomTensor([7001, hidden], 8), 'F16', 2))
    const full = await run(addon().convertTensor(half, 'F32', 2))
    const states = randomTensor([40, hidden], 9, 2)
    const gradients = []
    for (const head of [half, full]) {
      const options = { head, norm: rms, logitSoftcap: 0, sequenceLength: 40, seed: 2 }
      gradients.push((await run(addon().headGradient(states, options, 2))).gradients.toFloat32Array())
    }
    expect(largestDifference(gradients[0]!, gradients[1]!)).toBeLessThan(1e-6)
  })
})

describe('bad input', () => {
  it('is named', async () => {
    const head = heads['with a layer norm']!
    const states = randomTensor([6, hidden], 1)
    const gradient = async (changes: object) =>
      await run(addon().headGradient(states, { ...head, sequenceLength: 6, ...changes }, 1))
    await expect(gradient({ sequenceLength: 4 })).rejects.toThrow(/divisor of the 6 tokens/)
    await expect(gradient({ labels: new Int32Array(5) })).rejects.toThrow(/6 token ids.* for labels/)
    await expect(gradient({ labels: new Int32Array(6).fill(vocab) })).rejects.toThrow(
      /token id below 67 for labels\[0\] but received 67/,
    )
    await expect(gradient({ labels: [1, 2] })).rejects.toThrow(/Int32Array of token ids for labels/)
    await expect(gradient({ head: randomTensor([vocab, 19], 1), finalNorm: undefined })).rejects.toThrow(
      /\[tokens, 19\]/,
    )
    await expect(gradient({ finalNorm: { weight: randomTensor([19], 1) } })).rejects.toThrow(
      /vector of 20 .* for finalNorm.weight/,
    )
    await expect(gradient({ norm: { ...rms, kind: 'batch' } })).rejects.toThrow(/rms, layer for norm.kind/)
    await expect(gradient({ seed: 'one' })).rejects.toThrow(/for seed/)
    await expect(gradient({ seed: 0.5 })).rejects.toThrow(/whole number for seed but received 0.5/)
    await expect(gradient({ firstToken: -1 })).rejects.toThrow(/for firstToken/)
  })
})
