/** Tokens a second of prompt processing and of decoding, each with nothing else going on. */
import { SlimError } from '../errors.js'
import { addon, type CacheDType, run } from '../native/addon.js'
import { SplitMix64 } from '../random.js'
import type { Model } from './model.js'

export interface SpeedOptions {
  /** Tokens of a prompt that is run at once into an empty cache; 0: none. */
  promptTokens: number
  /** Tokens that are drawn one by one after a first one; 0: none. */
  generateTokens: number
  repeats: number
  cacheDType: CacheDType
  signal?: AbortSignal
  onRepeat?(done: number, of: number): void
}

export interface Speed {
  /** Tokens a second of every repeat. */
  samples: number[]
  mean: number
  standardDeviation: number
  median: number
}

/** Prompts of random tokens, the likeliest token drawn, whether or not it ends a text; one repeat more, first, to warm up. */
export async function measureSpeed(
  model: Model,
  { promptTokens, generateTokens, repeats, cacheDType, signal, onRepeat }: SpeedOptions,
): Promise<{ prompt: Speed | null; generate: Speed | null }> {
  for (const [name, value, least] of [
    ['promptTokens', promptTokens, 0],
    ['generateTokens', generateTokens, 0],
    ['repeats', repeats, 1],
  ] as const)
    if (!Number.isSafeInteger(value) || value < least)
      throw SlimError.invalidArgument(name, `a whole number from ${least} up`, value)
  const { native, threads } = model
  const { vocabSize, maxPositions } = model.spec
  for (const [name, count] of Object.entries({ promptTokens, generateTokens }))
    if (count > maxPositions)
      throw SlimError.invalidArgument(name, `at most the model's ${maxPositions} positions`, count)
  const random = new SplitMix64(0)
  /** Seconds of appending the tokens in steps of so many. */
  const seconds = async (tokens: number, tokensAStep: number): Promise<number> => {
    const cache = native.cache(tokens, cacheDType)
    const sampler = new (addon().Sampler)({})
    try {
      let ids = Int32Array.from({ length: tokensAStep }, () => random.below(vocabSize))
      const started = performance.now()
      for (let done = 0; done < tokens; done += tokensAStep) {
        const [next] = await run(native.step([{ cache, ids, sampler }], threads), signal)
        ids = Int32Array.of(next!.tokenId)
      }
      return (performance.now() - started) / 1000
    } finally {
      cache.dispose()
      sampler.dispose()
    }
  }
  const rounds = repeats + 1
  const measure = async (tokens: number, tokensAStep: number, before: number): Promise<Speed | null> => {
    if (tokens === 0) return null
    const samples: number[] = []
    for (let round = 0; round < rounds; round++) {
      const rate = tokens / (await seconds(tokens, tokensAStep))
      if (round > 0) samples.push(rate)
      onRepeat?.(before + round + 1, 2 * rounds)
    }
    return summary(samples)
  }
  return {
    prompt: await measure(promptTokens, promptTokens, 0),
    generate: await measure(generateTokens, 1, rounds),
  }
}

function summary(samples: number[]): Speed {
  const mean = samples.reduce((sum, x) => sum + x, 0) / samples.length
  const squares = samples.reduce((sum, x) => sum + (x - mean) ** 2, 0)
  const sorted = [...samples].sort((a, b) => a - b)
  const middle = (i: number) => sorted[Math.floor(i)]!
  return {
    samples,
    mean,
    standardDeviation: samples.length > 1 ? Math.sqrt(squares / (samples.length - 1)) : 0,
    median: (middle((samples.length - 1) / 2) + middle(samples.length / 2)) / 2,
  }
}
