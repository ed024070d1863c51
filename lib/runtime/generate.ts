/** Token by token: the likeliest one, or one drawn by temperature and top-p. */

import { SlimError } from '../errors.js'
import { addon, run } from '../native/addon.js'
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
  const sampler = new (addon().Sampler)({ temperature, topP, seed })
  const { tokenizer } = model
  const cache = native.cache(promptIds.length + maxTokens)
  const stream = new TextStream(tokenizer, promptIds)
  try {
    let next = promptIds
    for (let made = 1; made <= maxTokens; made++) {
      const [sampled] = await run(native.step([{ cache, ids: next, sampler }], model.threads), signal)
      const { tokenId, logprob } = sampled!
      const ended = tokenizer.eosTokenIds.includes(tokenId)
      let text = ended ? '' : stream.push(tokenId)
      if (ended || made === maxTokens) text += stream.end()
      yield { text, tokenId, logprob }
      if (ended) return
      next = Int32Array.of(tokenId)
    }
  } finally {
    cache.dispose()
    sampler.dispose()
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
