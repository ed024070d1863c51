/** A stand-in for a native model whose next token is a function of the tokens before it; it records its steps. */
import { SlimError } from '../../lib/errors.js'
import type { Model } from '../../lib/index.js'
import type { CacheDType, NativeDecoderModel, NativeKvCache, StepSequence } from '../../lib/native/addon.js'
import { Model as ModelClass } from '../../lib/runtime/model.js'
import { loadTokenizer, type Tokenizer } from '../../lib/runtime/tokenizer.js'

const LETTERS = [...'abcdefghijklmnopqrstuvwxyz \n.!']

/** <s> is 0, </s> 1, then a letter each. */
export function letterTokenizer(bos = false): Tokenizer {
  return loadTokenizer({
    json: {
      added_tokens: ['<s>', '</s>'].map((content, id) => ({ id, content, special: true })),
      model: {
        type: 'BPE',
        vocab: Object.fromEntries(['<s>', '</s>', ...LETTERS].map((token, id) => [token, id])),
        merges: [],
      },
      decoder: { type: 'Fuse' },
      post_processor: bos
        ? {
            type: 'TemplateProcessing',
            single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
            pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
            special_tokens: { '<s>': { id: '<s>', ids: [0], tokens: ['<s>'] } },
          }
        : null,
    },
    config: {
      bos_token: '<s>',
      eos_token: '</s>',
      chat_template: '{% for m in messages %}{{ m.role[0] }} {{ m.content }}\n{% endfor %}',
    },
  })
}

/** A letter that depends on all tokens before it; never the end of the text. */
export function hashed(ids: readonly number[]): number {
  let hash = 7
  for (const id of ids) hash = (hash * 31 + id) % 65_537
  return 2 + (hash % LETTERS.length)
}

class ScriptedCache implements NativeKvCache {
  ids: number[] = []
  disposed = false
  busy = false
  constructor(
    readonly capacity: number,
    readonly dtype: CacheDType,
  ) {}
  get byteLength(): number {
    return this.ids.length
  }
  get length(): number {
    return this.ids.length
  }
  truncate(length: number): void {
    this.ids.length = length
  }
  copyPrefix(from: NativeKvCache, length: number): void {
    const { ids, disposed } = from as ScriptedCache
    if (disposed) throw new Error('The source of the prefix is disposed')
    this.ids = ids.slice(0, length)
  }
  dispose(): void {
    this.disposed = true
  }
}

export interface ScriptedStep {
  /** Of every sequence: the tokens it had, those it got, and whether the next one was drawn. */
  sequences: { before: number[]; ids: number[]; drawn: boolean }[]
  cancelled: boolean
}

export interface ScriptedOptions {
  tokenizer?: Tokenizer
  maxPositions?: number
  next?(ids: readonly number[]): number
  /** Throws what a step that appends these ids ends with. */
  check?(ids: readonly number[]): void
  /** What a step waits for; the next turn of the event loop by default. */
  gate?(): Promise<void>
}

const nextTurn = () => new Promise<void>((resolve) => setImmediate(resolve))

export function scriptedModel({
  tokenizer = letterTokenizer(),
  maxPositions = 10_000,
  next = hashed,
  check = () => {},
  gate = nextTurn,
}: ScriptedOptions = {}) {
  const steps: ScriptedStep[] = []
  const caches: ScriptedCache[] = []
  const native = {
    disposed: false,
    running: 0,
    mostRunning: 0,
    cache(capacity: number, dtype: CacheDType) {
      const cache = new ScriptedCache(capacity, dtype)
      caches.push(cache)
      return cache
    },
    step(sequences: readonly StepSequence[]) {
      const parts = sequences.map(({ cache, ids, sampler }) => ({
        cache: cache as ScriptedCache,
        before: [...(cache as ScriptedCache).ids],
        ids: [...ids],
        drawn: sampler !== undefined,
      }))
      const step: ScriptedStep = {
        sequences: parts.map(({ cache: _, ...part }) => part),
        cancelled: false,
      }
      steps.push(step)
      for (const { cache } of parts) {
        if (cache.busy) throw new Error('A cache serves one step at a time')
        cache.busy = true
      }
      native.running++
      native.mostRunning = Math.max(native.mostRunning, native.running)
      const compute = async () => {
        await gate()
        native.running--
        for (const { cache } of parts) cache.busy = false
        if (step.cancelled) throw new SlimError('SLIM_ABORTED', 'Aborted')
        for (const { ids } of parts) check(ids)
        return parts.map(({ cache, ids, drawn }) => {
          if (cache.disposed) throw new Error('A cache was disposed during the step')
          cache.ids.push(...ids)
          if (cache.ids.length > cache.capacity) throw new Error('The cache is too small')
          const tokenId = drawn ? next(cache.ids) : -1
          return drawn ? { tokenId, logprob: -1, top: [{ tokenId, logprob: -1 }] } : null
        })
      }
      return {
        promise: compute(),
        cancel: () => {
          step.cancelled = true
        },
      }
    },
    dispose() {
      native.disposed = true
    },
  }
  const spec = { vocabSize: tokenizer.vocabSize, maxPositions, positions: null }
  const checkpoint = { dispose() {} }
  const decoder = native as never as NativeDecoderModel
  const model = new ModelClass(checkpoint as never, spec as never, decoder, 1, 'cpu')
  Object.defineProperty(model, 'tokenizer', { value: tokenizer })
  return { model: model as Model, native, steps, caches, tokenizer }
}

/** What the scripted model continues a prompt with, worked out without it. */
export function continuation(tokenizer: Tokenizer, prompt: string, tokens: number, next = hashed): string {
  const ids = [...tokenizer.encode(prompt)]
  const made: number[] = []
  for (let i = 0; i < tokens; i++) {
    made.push(next(ids))
    ids.push(made.at(-1)!)
  }
  return tokenizer.decode(made)
}
