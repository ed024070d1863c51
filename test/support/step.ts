/** Steps of a model, seen through what a sampler tells: the log-probability of every token. */
import {
  addon,
  type NativeDecoderModel,
  type NativeKvCache,
  type NativeSampler,
  run,
  type SampledToken,
  type SamplerOptions,
} from '../../lib/native/addon.js'

export const makeSampler = (options: SamplerOptions = {}): NativeSampler => new (addon().Sampler)(options)

/** Appends ids to a sequence; ln p [vocab] of the token after them. */
export async function stepLogprobs(
  model: NativeDecoderModel,
  cache: NativeKvCache,
  ids: Int32Array,
  vocab: number,
  threads = 2,
): Promise<Float64Array> {
  const sampler = makeSampler({ topLogprobs: vocab })
  const [token] = await run(model.step([{ cache, ids, sampler }], threads))
  sampler.dispose()
  return logprobs(token!)
}

export function logprobs({ top }: SampledToken): Float64Array {
  const values = new Float64Array(top.length)
  for (const { tokenId, logprob } of top) values[tokenId] = logprob
  return values
}

/** In float64. */
export function logSoftmax(row: ArrayLike<number>): Float64Array {
  const logits = Float64Array.from(row)
  const highest = logits.reduce((most, logit) => Math.max(most, logit), Number.NEGATIVE_INFINITY)
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - highest), 0)
  return logits.map((logit) => logit - highest - Math.log(sum))
}
