/** The sampler by its definition, in float64, with full sorts. */
import type { SamplerOptions } from '../../lib/native/addon.js'
import { SplitMix64 } from '../../lib/random.js'
import { logSoftmax } from './step.js'

export class ReferenceSampler {
  readonly #options: Required<SamplerOptions>
  readonly #random: SplitMix64
  #recent: number[] = []

  constructor(options: SamplerOptions) {
    this.#options = {
      temperature: 0,
      topK: 0,
      topP: 1,
      minP: 0,
      repetitionPenalty: 1,
      repetitionWindow: 64,
      seed: 0,
      topLogprobs: 0,
      ...options,
    }
    this.#random = new SplitMix64(this.#options.seed)
  }

  accept(ids: ArrayLike<number>): void {
    this.#recent = [...this.#recent, ...Array.from(ids)]
    this.#recent.splice(0, Math.max(0, this.#recent.length - this.#options.repetitionWindow))
  }

  sample(given: ArrayLike<number>): { tokenId: number; logprob: number } {
    const { temperature, topK, topP, minP, repetitionPenalty } = this.#options
    const logits = Float64Array.from(given)
    for (const id of new Set(this.#recent))
      logits[id] = logits[id]! > 0 ? logits[id]! / repetitionPenalty : logits[id]! * repetitionPenalty
    const order = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]! || a - b)
    const likeliest = order[0]!
    let tokenId = likeliest
    if (temperature > 0) {
      let kept = topK > 0 ? order.slice(0, topK) : order
      const weight = (id: number) => Math.exp((logits[id]! - logits[likeliest]!) / temperature)
      const massOf = (ids: number[]) => ids.reduce((sum, id) => sum + weight(id), 0)
      const target = topP * massOf(kept)
      let mass = 0
      let count = 0
      while (count < kept.length && mass < target) mass += weight(kept[count++]!)
      kept = kept.slice(0, count).filter((id) => weight(id) >= minP)
      kept.sort((a, b) => a - b)
      let left = this.#random.uniform() * massOf(kept)
      for (const id of kept) {
        tokenId = id
        left -= weight(id)
        if (left < 0) break
      }
    }
    this.accept([tokenId])
    return { tokenId, logprob: logSoftmax(given)[tokenId]! }
  }
}
