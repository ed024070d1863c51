/** Perplexity, KL divergence and top-1 agreement (METHODS: evaluation protocol). */
import { defaultSeqLen } from '../architecture/index.js'
import { SlimError } from '../errors.js'
import { readUtf8 } from '../files.js'
import { run } from '../native/addon.js'
import type { Model } from '../runtime/model.js'
import { checkPositions, checkTokenIds } from '../runtime/token_ids.js'
import type { SlimWarning } from '../warnings.js'

export interface EvaluateOptions {
  /** UTF-8 text file, tokenized whole. */
  file?: string
  /** The text, or its token ids, in place of a file. */
  text?: string
  tokenIds?: ArrayLike<number>
  /**
   * Tokens a window; windows do not overlap and a short last one is left out (default 2048,
   * or as many as the model has positions). With learned positions
   * (OPT) at most as many as the model has; rotary models may be tried beyond theirs, with a warning.
   */
  seqLen?: number
  /** Use the first so many tokens only. */
  maxTokens?: number
  /** Compare with this model's distributions, position by position. */
  reference?: Model
  onProgress?: (progress: { windows: number; of: number; perplexity: number }) => void
  onWarning?: (warning: SlimWarning) => void
  signal?: AbortSignal
}

export interface Evaluation {
  /** exp of the mean token NLL: each window's tokens but its first, given those before them in the window. */
  perplexity: number
  /** Mean NLL, nats a token. */
  meanNll: number
  /** Tokens in the windows. */
  tokens: number
  seqLen: number
  seconds: number
  /** Of the reference, where one is given. */
  referencePerplexity?: number
  /** Mean KL(reference ‖ model), nats a token. */
  klDivergence?: number
  /** Share of positions at which both models' likeliest tokens are the same. */
  top1Agreement?: number
}

export async function evaluatePerplexity(model: Model, options: EvaluateOptions): Promise<Evaluation> {
  const { seqLen = defaultSeqLen(model.spec), maxTokens, reference, signal, onProgress } = options
  if (!Number.isInteger(seqLen) || seqLen < 2)
    throw SlimError.invalidArgument('seqLen', 'a whole number from 2 up', seqLen)
  if (maxTokens !== undefined && (!Number.isInteger(maxTokens) || maxTokens < 1))
    throw SlimError.invalidArgument('maxTokens', 'a whole number from 1 up', maxTokens)
  checkPositions('seqLen', seqLen, model.spec, options.onWarning)
  if (reference) checkPositions('seqLen', seqLen, reference.spec)
  const started = performance.now()
  const ids = (await tokensOf(model, options)).subarray(0, maxTokens)
  const windows = Math.floor(ids.length / seqLen)
  if (windows === 0)
    throw new SlimError(
      'SLIM_TEXT_TOO_SHORT',
      `The text has ${ids.length} tokens; one window needs ${seqLen}`,
      {
        parameter: options.file ? 'file' : 'text',
        file: options.file,
        expected: `at least ${seqLen} tokens`,
        received: `${ids.length} tokens`,
        remedy: 'Give a longer text or a smaller seqLen',
      },
    )
  const sum = { nll: 0, referenceNll: 0, kl: 0, agrees: 0 }
  for (let w = 0; w < windows; w++) {
    const window = ids.slice(w * seqLen, (w + 1) * seqLen)
    if (reference) {
      const result = await run(model.native.compare(reference.native, window, model.threads), signal)
      for (const key of ['nll', 'referenceNll', 'kl', 'agrees'] as const) sum[key] += total(result[key])
    } else {
      sum.nll += total(await run(model.native.tokenNll(window, model.threads), signal))
    }
    onProgress?.({ windows: w + 1, of: windows, perplexity: Math.exp(sum.nll / ((w + 1) * (seqLen - 1))) })
  }
  const predictions = windows * (seqLen - 1)
  return {
    perplexity: Math.exp(sum.nll / predictions),
    meanNll: sum.nll / predictions,
    tokens: windows * seqLen,
    seqLen,
    seconds: (performance.now() - started) / 1000,
    ...(reference && {
      referencePerplexity: Math.exp(sum.referenceNll / predictions),
      klDivergence: sum.kl / predictions,
      top1Agreement: sum.agrees / predictions,
    }),
  }
}

async function tokensOf(model: Model, { file, text, tokenIds }: EvaluateOptions): Promise<Int32Array> {
  if (tokenIds !== undefined) return checkTokenIds('tokenIds', tokenIds, model.spec)
  if (text !== undefined) return model.tokenizer.encode(text)
  if (file === undefined) throw SlimError.invalidArgument('file', 'a path (or text, or tokenIds)', file)
  return model.tokenizer.encode(await readUtf8(file))
}

function total(values: Float32Array | Uint8Array): number {
  let sum = 0
  for (const value of values) sum += value
  return sum
}
