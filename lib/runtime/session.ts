/** Many texts at once on one model: what a server holds. */
import { SlimError } from '../errors.js'
import type { ChatMessage, ChatTemplateOptions } from './chat_template.js'
import {
  checkNames,
  contextLimit,
  fitTokens,
  type GenerateOptions,
  givenOptions,
  KV_CACHE_DTYPES,
  type KvCacheType,
  resolveOptions,
} from './generate_options.js'
import { type Generation, SequenceGeneration } from './generation.js'
import type { Model } from './model.js'
import { Scheduler } from './scheduler.js'
import { Sequence } from './sequence.js'
import { checkTokenIds } from './token_ids.js'

export interface SessionOptions {
  /** Sequences that are run at once (default 8); more wait their turn. */
  maxSequences?: number
  /** Tokens of one sequence, prompt and answer (default: the model's positions). */
  contextLength?: number
  /** Tokens of prompts that one step takes in, all sequences together (default 256). */
  promptChunk?: number
  /** Caches of ended sequences to keep for prompts that begin alike (default: `maxSequences`). */
  keptCaches?: number
  /** How keys and values are kept (default 'f16'). */
  kvCache?: KvCacheType
}

/** Options of one text; how keys and values are kept is the session's. */
export type SequenceOptions = Omit<GenerateOptions, 'kvCache'>
export type ChatOptions = GenerateOptions & ChatTemplateOptions
export type SessionChatOptions = SequenceOptions & ChatTemplateOptions

/** One step of the model at a time serves all texts that are being made; they come and go between steps. */
export interface Session extends AsyncDisposable {
  /** Most tokens of one sequence, prompt and answer. */
  readonly contextLength: number
  /** Sequences that are being run. */
  readonly activeSequences: number
  /** Sequences that wait for one of `maxSequences` places. */
  readonly waitingSequences: number
  /** Continues a prompt: a text gets the tokenizer's special tokens, token ids are taken as they are. */
  generate(prompt: string | ArrayLike<number>, options?: SequenceOptions): Generation
  /** Answers a chat, in the words of the model's chat template. */
  chat(messages: readonly ChatMessage[], options?: SessionChatOptions): Generation
  /** Ends all sequences with SLIM_DISPOSED and frees their caches. */
  dispose(): Promise<void>
}

export class BatchSession implements Session {
  readonly #batch: Batch

  constructor(model: Model, options: SessionOptions, holders: Set<Scheduler>) {
    this.#batch = openBatch(model, options, holders)
  }

  get contextLength(): number {
    return this.#batch.contextLength
  }

  get activeSequences(): number {
    return this.#batch.scheduler.activeSequences
  }

  get waitingSequences(): number {
    return this.#batch.scheduler.waitingSequences
  }

  generate(prompt: string | ArrayLike<number>, options: SequenceOptions = {}): Generation {
    return new SequenceGeneration(() => beginText(this.#batch, prompt, options))
  }

  chat(messages: readonly ChatMessage[], options: SessionChatOptions = {}): Generation {
    return new SequenceGeneration(() => beginChat(this.#batch, messages, options))
  }

  dispose(): Promise<void> {
    return this.#batch.scheduler.dispose()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose()
  }
}

/** A model, and what runs its sequences. */
export interface Batch {
  model: Model
  scheduler: Scheduler
  contextLength: number
}

export function openBatch(model: Model, options: SessionOptions, holders: Set<Scheduler>): Batch {
  checkNames(options, ['maxSequences', 'contextLength', 'promptChunk', 'keptCaches', 'kvCache'])
  const { maxSequences = 8, promptChunk = 256, keptCaches = maxSequences, kvCache = 'f16' } = options
  checkCount('maxSequences', maxSequences, 1)
  checkCount('promptChunk', promptChunk, 1)
  checkCount('keptCaches', keptCaches, 0)
  if (!Object.hasOwn(KV_CACHE_DTYPES, kvCache))
    throw SlimError.invalidArgument('kvCache', `one of ${Object.keys(KV_CACHE_DTYPES).join(', ')}`, kvCache)
  if (model.device === 'cuda' && kvCache !== 'f16')
    throw SlimError.invalidArgument('kvCache', "'f16', the type on device 'cuda'", kvCache, 'Leave it out')
  const settings = {
    ...{ maxSequences, promptChunk, keptCaches },
    cacheDType: KV_CACHE_DTYPES[kvCache],
    threads: model.threads,
  }
  return {
    model,
    scheduler: new Scheduler(() => model.native, settings, holders),
    contextLength: contextLimit(model.spec, options.contextLength),
  }
}

/** A text gets the special tokens that models are trained to see before it, unless it spells out the first itself. */
export function beginText(
  batch: Batch,
  prompt: string | ArrayLike<number>,
  options: SequenceOptions,
): Sequence {
  return begin(batch, options, () => {
    if (typeof prompt !== 'string') return checkTokenIds('prompt', prompt, batch.model.spec)
    const { tokenizer } = batch.model
    const plain = tokenizer.encode(prompt)
    const begins = plain.length > 0 && plain[0] === tokenizer.bosTokenId
    return begins ? plain : tokenizer.encode(prompt, { addSpecialTokens: true })
  })
}

/** The template spells out its special tokens. */
export function beginChat(
  batch: Batch,
  messages: readonly ChatMessage[],
  chatOptions: SessionChatOptions,
): Sequence {
  const { addGenerationPrompt, tools, variables, ...options } = givenOptions(chatOptions)
  const { tokenizer } = batch.model
  return begin(batch, options, () =>
    tokenizer.encode(tokenizer.applyChatTemplate(messages, { addGenerationPrompt, tools, variables })),
  )
}

function begin(
  { model, scheduler, contextLength }: Batch,
  options: SequenceOptions,
  encode: () => Int32Array,
) {
  scheduler.checkOpen()
  const resolved = resolveOptions(options)
  const prompt = encode()
  if (prompt.length === 0) throw SlimError.invalidArgument('prompt', 'at least one token', 'none')
  const maxTokens = fitTokens(resolved.maxTokens, prompt.length, contextLength)
  const sequence = new Sequence(prompt, maxTokens, resolved, model.tokenizer, scheduler)
  scheduler.add(sequence)
  return sequence
}

function checkCount(name: string, value: unknown, least: number): void {
  if (!Number.isSafeInteger(value) || (value as number) < least)
    throw SlimError.invalidArgument(name, `a whole number from ${least} up`, value)
}
