/** One sequence of a session: what its cache holds, what comes next, and the tokens that its consumer waits for. */
import { SlimError } from '../errors.js'
import type { NativeKvCache, NativeSampler, SampledToken } from '../native/addon.js'
import type { ResolvedOptions } from './generate_options.js'
import type { FinishReason, GeneratedToken } from './generation.js'
import { StopStrings } from './stop_strings.js'
import { TextStream } from './text_stream.js'
import type { Tokenizer } from './tokenizer.js'

interface Waiter {
  resolve(token: GeneratedToken | null): void
  reject(error: unknown): void
}

/** What a sequence asks of the scheduler that runs it. */
export interface SequenceScheduler {
  /** It may be run again: its consumer has taken a token. */
  wake(): void
  /** It has ended; resolves when no step uses it any longer. */
  release(sequence: Sequence): Promise<void>
}

export class Sequence {
  /** Tokens whose keys and values the cache holds. */
  readonly cached: number[] = []
  /** Tokens to run next: what is left of the prompt, or the last token. */
  pending: Int32Array
  /** Set while the sequence is active. */
  cache: NativeKvCache | null = null
  sampler: NativeSampler | null = null
  reusedTokens = 0
  ended = false

  readonly #text: TextStream
  readonly #stops: StopStrings
  readonly #tokens: GeneratedToken[] = []
  readonly #waiters: Waiter[] = []
  #made = 0
  #finishReason: FinishReason | null = null
  #error: unknown
  #released = Promise.resolve()
  readonly #abort = () => {
    this.#tokens.length = 0
    this.fail(
      new SlimError('SLIM_ABORTED', 'The generation was aborted', { cause: this.options.signal?.reason }),
    )
  }

  constructor(
    readonly prompt: Int32Array,
    readonly maxTokens: number,
    readonly options: ResolvedOptions,
    private readonly tokenizer: Tokenizer,
    private readonly scheduler: SequenceScheduler,
  ) {
    this.pending = prompt
    this.#text = new TextStream(tokenizer, prompt)
    this.#stops = new StopStrings(options.stop)
    if (maxTokens === 0) this.#finish('length')
    else if (options.signal?.aborted) this.#abort()
    else options.signal?.addEventListener('abort', this.#abort, { once: true })
  }

  /** Whether a step would make what the consumer has asked for, or the one token ahead of it. */
  get isReady(): boolean {
    return !this.ended && this.#tokens.length === 0
  }

  /** null until the consumer has the last token. */
  get finishReason(): FinishReason | null {
    return this.#tokens.length === 0 ? this.#finishReason : null
  }

  /** Tokens that the consumer has. */
  get generatedTokens(): number {
    return this.#made - this.#tokens.length
  }

  /** The next token; null after the last. */
  take(): Promise<GeneratedToken | null> {
    const token = this.#tokens.shift()
    if (token) {
      this.scheduler.wake()
      return Promise.resolve(token)
    }
    if (this.#error !== undefined) return Promise.reject(this.#error)
    if (this.ended) return this.#released.then(() => null)
    return new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }))
  }

  /** The cache holds so many of the prompt's tokens already. */
  reuse(count: number): void {
    this.reusedTokens = count
    this.advance(count, null)
  }

  /** The first of `pending` were run, and with the last of them the next token drawn. */
  advance(count: number, sampled: SampledToken | null): void {
    for (const id of this.pending.subarray(0, count)) this.cached.push(id)
    this.pending = this.pending.subarray(count)
    if (!sampled || this.ended) return
    this.pending = Int32Array.of(sampled.tokenId)
    this.#emit(sampled)
  }

  /** Ends the sequence from outside. */
  cancel(): Promise<void> {
    if (!this.ended) this.#end()
    this.#tokens.length = 0
    for (const { resolve } of this.#waiters.splice(0)) resolve(null)
    return this.#released
  }

  /** Ends it with an error, which comes after the tokens that are there already. */
  fail(error: unknown): void {
    if (this.ended) return
    this.#error = error
    this.#end()
    for (const { reject } of this.#waiters.splice(0)) reject(error)
  }

  #emit({ tokenId, logprob, top }: SampledToken): void {
    this.#made++
    const isEos = this.tokenizer.eosTokenIds.includes(tokenId)
    const isLast = isEos || this.#made === this.maxTokens
    let complete = isEos ? '' : this.#text.push(tokenId)
    if (isLast) complete += this.#text.end()
    let text = this.#stops.push(complete)
    if (isLast) text += this.#stops.end()
    const token: GeneratedToken = { text, tokenId, logprob }
    if (this.options.logprobs > 0) token.top = top
    if (this.#stops.found) this.#finish('stop')
    else if (isLast) this.#finish(isEos ? 'eos' : 'length')
    const waiter = this.#waiters.shift()
    if (waiter) waiter.resolve(token)
    else this.#tokens.push(token)
    if (this.ended) for (const { resolve } of this.#waiters.splice(0)) resolve(null)
  }

  #finish(reason: FinishReason): void {
    this.#finishReason = reason
    this.#end()
  }

  #end(): void {
    this.ended = true
    this.options.signal?.removeEventListener('abort', this.#abort)
    this.#released = this.scheduler.release(this)
  }
}
