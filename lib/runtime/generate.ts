/** Token by token: the likeliest one, or one drawn by temperature and top-p. */

import { SlimError } from '../errors.js'
import { run } from '../native/addon.js'
import { SplitMix64 } from '../random.js'
import type { Model } from './model.js'
import { TextStream } from './text_stream.js'
import { checkPositions, checkTokenIds } from './token_ids.js'

export interface GenerateOptions {
  /** Default 128. */
  maxTokens?: number
  /** 0 (default): always the likeliest token. */
  temperature?: number
  /** Draw from the smallest set of tokens whose probability reaches this (default 1). */
  topP?: number
  seed?: number
  signal?: AbortSignal
}

export interface GeneratedToken {
  /** The text that this token completes: none while a character is unfinished, none for the end of the text. */
  text: string
  tokenId: number
  /** Natural log of the token's probability at temperature 1. */
  logprob: number
}

/** A text prompt gets the tokenizer's special tokens, such as a beginning of text; token ids are taken as they are. */
export async function* generateTokens(
  model: Model,
  prompt: string | ArrayLike<number>,
  { maxTokens = 128, temperature = 0, topP = 1, seed = 0, signal }: GenerateOptions,
): AsyncGenerator<GeneratedToken> {
  if (!Number.isInteger(maxTokens) || maxTokens < 0)
    throw SlimError.invalidArgument('maxTokens', 'a whole number from 0 up', maxTokens)
  if (!(temperature >= 0)) throw SlimError.invalidArgument('temperature', 'a number from 0 up', temperature)
  if (!(topP > 0 && topP <= 1)) throw SlimError.invalidArgument('topP', 'a number above 0, up to 1', topP)
  const { native } = model
  const promptIds = encodePrompt(model, prompt)
  // The last token is not run.
  checkPositions('maxTokens', promptIds.length + maxTokens - 1, model.spec)
  const random = new SplitMix64(seed)
  const { tokenizer } = model
  const cache = native.cache(promptIds.length + maxTokens)
  const stream = new TextStream(tokenizer, promptIds)
  try {
    let next = promptIds
    for (let made = 1; made <= maxTokens; made++) {
      const logits = await run(native.step(cache, next, model.threads), signal)
      const { tokenId, logprob } = sample(logits, temperature, topP, random)
      const ended = tokenizer.eosTokenIds.includes(tokenId)
      let text = ended ? '' : stream.push(tokenId)
      if (ended || made === maxTokens) text += stream.end()
      yield { text, tokenId, logprob }
      if (ended) return
      next = Int32Array.of(tokenId)
    }
  } finally {
    cache.dispose()
  }
}

/** A text with the special tokens that models are trained to see before it, unless it spells out the first itself. */
function encodePrompt(model: Model, prompt: string | ArrayLike<number>): Int32Array {
  if (typeof prompt !== 'string') {
    const ids = checkTokenIds('prompt', prompt, model.spec)
    if (ids.length === 0) throw SlimError.invalidArgument('prompt', 'at least one token', 'none')
    return ids
  }
  const { tokenizer } = model
  const plain = tokenizer.encode(prompt)
  const begins = plain.length > 0 && plain[0] === tokenizer.bosTokenId
  const ids = begins ? plain : tokenizer.encode(prompt, { addSpecialTokens: true })
  if (ids.length === 0) throw SlimError.invalidArgument('prompt', 'at least one token', prompt)
  return ids
}

function sample(
  logits: Float32Array,
  temperature: number,
  topP: number,
  random: SplitMix64,
): { tokenId: number; logprob: number } {
  let best = 0
  for (let i = 1; i < logits.length; i++) if (logits[i]! > logits[best]!) best = i
  const logZ = logSumExp(logits, logits[best]!, 1)
  if (temperature === 0) return { tokenId: best, logprob: logits[best]! - logZ }
  const top = logits[best]! / temperature
  const logZt = logSumExp(logits, top, temperature)
  const probability = Float64Array.from(logits, (logit) => Math.exp(logit / temperature - logZt))
  const order = Array.from(probability.keys()).sort((a, b) => probability[b]! - probability[a]! || a - b)
  let kept = 0
  let mass = 0
  while (kept < order.length && mass < topP) mass += probability[order[kept++]!]!
  let left = random.uniform() * mass
  let tokenId = order[0]!
  for (const candidate of order.slice(0, kept)) {
    tokenId = candidate
    left -= probability[candidate]!
    if (left < 0) break
  }
  return { tokenId, logprob: logits[tokenId]! - logZ }
}

/** log Σ exp(logit / temperature), given the largest of the exponents. */
function logSumExp(logits: Float32Array, largest: number, temperature: number): number {
  let sum = 0
  for (const logit of logits) sum += Math.exp(logit / temperature - largest)
  return largest + Math.log(sum)
}
