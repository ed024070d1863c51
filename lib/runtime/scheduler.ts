/**
 * Continuous batching (Orca, OSDI 2022): one native step at a time, over all sequences whose consumers wait for a token.
 * Sequences join and leave between steps. Prompts enter in chunks (Sarathi, arXiv 2308.16369), so that a long one
 * delays the tokens of the others by a chunk a step and no more.
 */
import { SlimError } from '../errors.js'
import {
  addon,
  type CacheDType,
  type NativeDecoderModel,
  type NativeJob,
  type SampledToken,
} from '../native/addon.js'
import { longestPrefix, PrefixCaches } from './prefix_caches.js'
import type { Sequence, SequenceScheduler } from './sequence.js'

export interface SchedulerSettings {
  maxSequences: number
  /** Tokens of prompts in one step, all sequences together. */
  promptChunk: number
  keptCaches: number
  cacheDType: CacheDType
  threads: number
}

/** A sequence's share of a step: the first `count` of its pending tokens. */
interface Share {
  sequence: Sequence
  count: number
}

export class Scheduler implements SequenceScheduler {
  readonly #waiting: Sequence[] = []
  readonly #active = new Set<Sequence>()
  readonly #kept: PrefixCaches
  /** The step under way. */
  #job: { native: NativeJob<unknown>; sequences: Set<Sequence>; done: Promise<void> } | null = null
  #running = false
  #disposed = false

  /**
   * `model` throws when the model is disposed. `holders` are what has to be disposed before it: this scheduler is among
   * them while it holds caches.
   */
  constructor(
    private readonly model: () => NativeDecoderModel,
    private readonly settings: SchedulerSettings,
    private readonly holders: Set<Scheduler>,
  ) {
    this.#kept = new PrefixCaches(settings.keptCaches)
  }

  /** Sequences in the batch, those included that wait for their consumers. */
  get activeSequences(): number {
    return this.#active.size
  }

  /** Sequences that wait for a place in the batch. */
  get waitingSequences(): number {
    return this.#waiting.length
  }

  /** Throws where the session or the model is disposed. */
  checkOpen(): void {
    if (this.#disposed) throw disposedError()
    this.model()
  }

  add(sequence: Sequence): void {
    if (sequence.ended) return
    this.#waiting.push(sequence)
    this.wake()
  }

  wake(): void {
    if (this.#running) return
    this.#running = true
    // Sequences that are added in the same turn of the event loop share the first step.
    queueMicrotask(() => void this.#run())
  }

  async release(sequence: Sequence): Promise<void> {
    const place = this.#waiting.indexOf(sequence)
    if (place >= 0) this.#waiting.splice(place, 1)
    if (!this.#active.delete(sequence)) return
    if (this.#job?.sequences.has(sequence)) {
      // The others of a batch go on; what it computes for this one is dropped.
      if ([...this.#job.sequences].every(({ ended }) => ended)) this.#job.native.cancel()
      await this.#job.done
    }
    this.#letGo(sequence)
    this.wake()
  }

  /** Ends all sequences with SLIM_DISPOSED, and frees all caches. */
  async dispose(): Promise<void> {
    this.#disposed = true
    for (const sequence of [...this.#active, ...this.#waiting]) sequence.fail(disposedError())
    await this.#job?.done
    this.#kept.clear()
    this.#register()
  }

  async #run(): Promise<void> {
    for (;;) {
      this.#admit()
      const shares = this.#nextStep()
      if (shares.length === 0) break
      await this.#step(shares)
    }
    this.#running = false
  }

  /** Gives places in the batch to those who have waited longest. */
  #admit(): void {
    while (this.#waiting.length > 0 && this.#active.size < this.settings.maxSequences) {
      const sequence = this.#waiting.shift()!
      try {
        this.#open(sequence)
        this.#active.add(sequence)
      } catch (error) {
        sequence.cache?.dispose()
        sequence.fail(error)
      }
    }
    this.#register()
  }

  #open(sequence: Sequence): void {
    const { prompt, maxTokens, options } = sequence
    // The last token is drawn, not run.
    const cache = this.model().cache(prompt.length + maxTokens - 1, this.settings.cacheDType)
    sequence.cache = cache
    sequence.sampler = new (addon().Sampler)(options.sampler)
    sequence.sampler.accept(prompt)
    const running = [...this.#active].map(({ cache, cached }) => ({ cache: cache!, cached }))
    // One token at least is run: the next one is drawn from its logits.
    const prefix = longestPrefix([...this.#kept, ...running], prompt.subarray(0, -1))
    if (!prefix) return
    cache.copyPrefix(prefix.source.cache, prefix.length)
    this.#kept.touch(prefix.source)
    sequence.reuse(prefix.length)
  }

  /** One token of every sequence that goes on, and a chunk of prompts, divided evenly among those that enter. */
  #nextStep(): Share[] {
    const ready = [...this.#active].filter((sequence) => sequence.isReady)
    const shares: Share[] = ready
      .filter(({ pending }) => pending.length === 1)
      .map((sequence) => ({ sequence, count: 1 }))
    const entering = ready
      .filter(({ pending }) => pending.length > 1)
      .sort((a, b) => a.pending.length - b.pending.length)
    let left = this.settings.promptChunk
    entering.forEach((sequence, i) => {
      const fair = Math.max(1, Math.floor(left / (entering.length - i)))
      const count = Math.min(sequence.pending.length, fair)
      left -= count
      shares.push({ sequence, count })
    })
    return shares
  }

  async #step(shares: readonly Share[]): Promise<void> {
    let sampled: (SampledToken | null)[]
    let finished = () => {}
    try {
      const native = this.model().step(
        shares.map(({ sequence, count }) => ({
          cache: sequence.cache!,
          ids: sequence.pending.subarray(0, count),
          sampler: count === sequence.pending.length ? sequence.sampler! : undefined,
        })),
        this.settings.threads,
      )
      const sequences = new Set(shares.map(({ sequence }) => sequence))
      this.#job = { native, sequences, done: new Promise((resolve) => (finished = resolve)) }
      sampled = await native.promise
    } catch (error) {
      this.#job = null
      finished()
      return this.#stepFailed(shares, error)
    }
    this.#job = null
    // Before those who wait for the step to end: what was run is in the caches.
    shares.forEach(({ sequence, count }, i) => {
      try {
        sequence.advance(count, sampled[i]!)
      } catch (error) {
        sequence.fail(error)
      }
    })
    finished()
  }

  /**
   * No cache has changed. Caches that are kept make room where memory is short; otherwise each sequence is tried alone,
   * so that the error goes to the one that it belongs to.
   */
  async #stepFailed(shares: readonly Share[], error: unknown): Promise<void> {
    if (error instanceof SlimError && error.code === 'SLIM_OUT_OF_MEMORY' && this.#kept.size > 0) {
      this.#kept.clear()
      return await this.#step(shares.filter(({ sequence }) => !sequence.ended))
    }
    const going = shares.filter(({ sequence }) => !sequence.ended)
    if (shares.length === 1) going[0]?.sequence.fail(error)
    else for (const share of going) if (!share.sequence.ended) await this.#step([share])
  }

  /** A sequence has ended and no step uses it. */
  #letGo(sequence: Sequence): void {
    const { cache, cached } = sequence
    sequence.sampler?.dispose()
    if (cache && cached.length > 0 && this.settings.keptCaches > 0 && !this.#disposed)
      this.#kept.keep({ cache, cached })
    else cache?.dispose()
    sequence.cache = null
    this.#register()
  }

  #register(): void {
    if (this.#active.size + this.#kept.size > 0) this.holders.add(this)
    else this.holders.delete(this)
  }
}

const disposedError = () => new SlimError('SLIM_DISPOSED', 'The session is disposed')
