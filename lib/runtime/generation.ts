/** A text in the making, token by token, as its consumer takes it. */
import type { TokenLogprob } from '../native/addon.js'
import type { Sequence } from './sequence.js'

export interface GeneratedToken {
  /** The text that this token completes: none while a character or a stop string may go on, none for the end token. */
  text: string
  tokenId: number
  /** Natural log of the token's probability at temperature 1. */
  logprob: number
  /** The likeliest tokens in its place, likeliest first; with the option `logprobs`. */
  top?: TokenLogprob[]
}

/** A token that ends texts; a stop string; or maxTokens. */
export type FinishReason = 'eos' | 'stop' | 'length'

/**
 * Nothing is computed before the first token is asked for, and then no more than one token ahead of the consumer.
 * `break`, return() and the signal end it.
 */
export interface Generation extends AsyncIterableIterator<GeneratedToken, undefined, undefined> {
  /** Why the text ended; null until it has, and when it was ended from outside or by an error. */
  readonly finishReason: FinishReason | null
  /** Tokens of the prompt; 0 before the first token is asked for. */
  readonly promptTokens: number
  /** Those of them whose keys and values another sequence of the session had computed. */
  readonly reusedTokens: number
  /** Tokens given so far, the end token included. */
  readonly generatedTokens: number
  return(): Promise<IteratorResult<GeneratedToken, undefined>>
  [Symbol.asyncIterator](): Generation
}

export class SequenceGeneration implements Generation {
  #sequence: Sequence | null = null
  #ended = false

  /** `start` checks the arguments of the call and hands the sequence to its scheduler. */
  constructor(private readonly start: () => Sequence) {}

  get finishReason(): FinishReason | null {
    return this.#sequence?.finishReason ?? null
  }

  get promptTokens(): number {
    return this.#sequence?.prompt.length ?? 0
  }

  get reusedTokens(): number {
    return this.#sequence?.reusedTokens ?? 0
  }

  get generatedTokens(): number {
    return this.#sequence?.generatedTokens ?? 0
  }

  async next(): Promise<IteratorResult<GeneratedToken, undefined>> {
    if (this.#ended) return { done: true, value: undefined }
    try {
      this.#sequence ??= this.start()
      const value = await this.#sequence.take()
      if (value) return { done: false, value }
    } catch (error) {
      this.#ended = true
      throw error
    }
    this.#ended = true
    return { done: true, value: undefined }
  }

  async return(): Promise<IteratorResult<GeneratedToken, undefined>> {
    this.#ended = true
    await this.#sequence?.cancel()
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator](): this {
    return this
  }
}
