/** How a text is continued: the options of generation, checked, and as the native sampler takes them. */
import type { DecoderSpec } from '../architecture/spec.js'
import { SlimError } from '../errors.js'
import { isObject } from '../files.js'
import type { CacheDType, SamplerOptions } from '../native/addon.js'

export interface GenerateOptions {
  /** Most tokens to make (default 128, or as many as the model's positions leave). */
  maxTokens?: number
  /** 0 (default): always the likeliest token. */
  temperature?: number
  /** Draw from the so many likeliest tokens (default 0: all). */
  topK?: number
  /** Draw from the smallest set of tokens whose probability reaches this (default 1). */
  topP?: number
  /** Leave out tokens less likely than this share of the likeliest one's probability (default 0). */
  minP?: number
  /** Logits of tokens of the last `repetitionWindow` are divided (where negative: multiplied) by this (default 1). */
  repetitionPenalty?: number
  /** Tokens that the repetition penalty looks back on, prompt included (default 64). */
  repetitionWindow?: number
  /** Of the draw (default 0). */
  seed?: number
  /** Strings that end the text; they are not part of it. */
  stop?: string | readonly string[]
  /** Give so many likeliest tokens beside each one, 0 (default) to 20. */
  logprobs?: number
  /** How keys and values are kept (default 'f16'). */
  kvCache?: KvCacheType
  signal?: AbortSignal
}

export type KvCacheType = 'f16' | 'int8' | 'f32'

export const KV_CACHE_DTYPES: Readonly<Record<KvCacheType, CacheDType>> = {
  f16: 'F16',
  int8: 'I8',
  f32: 'F32',
}

const MOST_LOGPROBS = 20
const DEFAULT_MAX_TOKENS = 128

export interface ResolvedOptions {
  maxTokens: number | undefined
  sampler: SamplerOptions
  stop: readonly string[]
  logprobs: number
  signal: AbortSignal | undefined
}

const isWhole = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0
const isWithin = (least: number, most: number) => (value: unknown) =>
  typeof value === 'number' && value >= least && value <= most

/** What the numbers among the options may be. */
const NUMBERS = {
  maxTokens: [isWhole, 'a whole number from 0 up'],
  temperature: [isWithin(0, Number.MAX_VALUE), 'a number from 0 up'],
  topK: [isWhole, 'a whole number from 0 (all tokens) up'],
  topP: [(p: unknown) => p !== 0 && isWithin(0, 1)(p), 'a number above 0, up to 1'],
  minP: [isWithin(0, 1), 'a number from 0 to 1'],
  repetitionPenalty: [isWithin(1e-6, 1e6), 'a number from 1e-6 to 1e6 (1: none)'],
  repetitionWindow: [isWhole, 'a whole number from 0 up'],
  seed: [Number.isSafeInteger, 'a whole number'],
  logprobs: [
    (count: unknown) => isWhole(count) && (count as number) <= MOST_LOGPROBS,
    `a whole number from 0 to ${MOST_LOGPROBS}`,
  ],
} satisfies Partial<Record<keyof GenerateOptions, [(value: unknown) => boolean, string]>>

/** The options, if they are an object. */
export function givenOptions<T>(options: T): T {
  if (!isObject(options)) throw SlimError.invalidArgument('options', 'an object', options)
  return options
}

/** A misspelt option must not become a silent default. */
export function checkNames(options: unknown, names: readonly string[]): void {
  const given = givenOptions(options) as Record<string, unknown>
  const unknown = Object.keys(given).find((name) => !names.includes(name))
  if (unknown !== undefined)
    throw SlimError.invalidArgument(
      unknown,
      `nothing by this name among the options (there are ${names.join(', ')})`,
      given[unknown],
    )
}

/** The options but kvCache, which is a session's. */
export function resolveOptions(options: Omit<GenerateOptions, 'kvCache'>): ResolvedOptions {
  checkNames(options, [...Object.keys(NUMBERS), 'stop', 'signal'])
  for (const [name, [isValid, expected]] of Object.entries(NUMBERS)) {
    const value = options[name as keyof typeof NUMBERS]
    if (value !== undefined && !isValid(value)) throw SlimError.invalidArgument(name, expected, value)
  }
  const { maxTokens, stop = [], logprobs = 0, signal } = options
  const { temperature = 0, topK = 0, topP = 1, minP = 0, seed = 0 } = options
  const { repetitionPenalty = 1, repetitionWindow = 64 } = options
  const stops = typeof stop === 'string' ? [stop] : stop
  if (!Array.isArray(stops) || stops.some((text) => typeof text !== 'string' || text === ''))
    throw SlimError.invalidArgument('stop', 'a string that is not empty, or an array of such', stop)
  return {
    maxTokens,
    sampler: {
      ...{ temperature, topK, topP, minP, repetitionPenalty, repetitionWindow, seed },
      topLogprobs: logprobs,
    },
    stop: stops,
    logprobs,
    signal,
  }
}

/**
 * The tokens to make after a prompt. Nothing of a context is ever dropped to make room ("context shift"): what does not
 * fit is refused before anything is computed.
 */
export function fitTokens(
  maxTokens: number | undefined,
  promptTokens: number,
  contextLength: number,
): number {
  const room = contextLength - promptTokens
  const wanted = maxTokens ?? Math.max(1, Math.min(DEFAULT_MAX_TOKENS, room))
  if (wanted <= room) return wanted
  throw new SlimError(
    'SLIM_CONTEXT_LENGTH',
    `${promptTokens} tokens of the prompt and ${wanted} of maxTokens are more than the ${contextLength} of the context`,
    {
      parameter: 'maxTokens',
      expected: `at most ${contextLength} tokens, prompt and maxTokens together`,
      received: String(promptTokens + wanted),
      remedy:
        'Old tokens are not dropped to make room (no context shift): shorten the prompt, leave out the first messages of a chat, or ask for a smaller maxTokens',
    },
  )
}

/** Tokens that a sequence may have: what is asked for, within the model's positions. */
export function contextLimit(
  { maxPositions }: Pick<DecoderSpec, 'maxPositions'>,
  asked: number | undefined,
): number {
  if (asked === undefined) return maxPositions
  if (!Number.isInteger(asked) || asked < 1 || asked > maxPositions)
    throw SlimError.invalidArgument(
      'contextLength',
      `a whole number from 1 to the model's ${maxPositions} positions`,
      asked,
    )
  return asked
}
