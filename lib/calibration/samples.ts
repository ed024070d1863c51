/** Calibration samples: windows of a text's tokens at seeded or given offsets, and their hash. */
import { createHash } from 'node:crypto'
import { SlimError } from '../errors.js'
import { SplitMix64 } from '../random.js'

export interface SamplingOptions {
  /** Number of windows (default 128, or as many as there are offsets). */
  samples?: number
  /** Tokens a window (default 2048; of quantize() at most the model's positions). */
  seqLen?: number
  /** Seed of the offsets (default 0). */
  seed?: number
  /** First token of every window, in place of the seeded draw. */
  offsets?: readonly number[]
}

export interface CalibrationSamples {
  /** Token ids, window after window: samples × seqLen. */
  ids: Int32Array
  samples: number
  seqLen: number
  offsets: number[]
  /** SHA-256 of seqLen and the ids. */
  hash: string
}

/** Cuts windows out of a tokenized text. */
export function sampleWindows(tokens: Int32Array, options: SamplingOptions): CalibrationSamples {
  const { seqLen = 2048, seed = 0 } = options
  const samples = options.offsets?.length ?? options.samples ?? 128
  if (options.samples !== undefined && options.samples !== samples)
    throw SlimError.invalidArgument(
      'calibration.samples',
      `${samples}, the number of offsets,`,
      options.samples,
      'Leave samples out where the offsets are given',
    )
  for (const [parameter, value] of [
    ['calibration.samples', samples] as const,
    ['calibration.seqLen', seqLen] as const,
  ])
    if (!Number.isInteger(value) || value < 1)
      throw SlimError.invalidArgument(parameter, 'a whole number from 1 up', value)
  const random = new SplitMix64(seed, 'calibration.seed')
  if (tokens.length < seqLen)
    throw new SlimError(
      'SLIM_TEXT_TOO_SHORT',
      `The calibration text has ${tokens.length} tokens; one sample needs ${seqLen}`,
      {
        parameter: 'calibration',
        expected: `at least ${seqLen} tokens`,
        received: `${tokens.length} tokens`,
        remedy: 'Give a longer text or a smaller seqLen',
      },
    )
  const offsets = options.offsets
    ? [...options.offsets]
    : Array.from({ length: samples }, () => random.below(tokens.length - seqLen + 1))
  const ids = new Int32Array(samples * seqLen)
  offsets.forEach((offset, i) => {
    if (!Number.isInteger(offset) || offset < 0 || offset + seqLen > tokens.length)
      throw SlimError.invalidArgument(
        `calibration.offsets[${i}]`,
        `a whole number from 0 to ${tokens.length - seqLen}`,
        offset,
      )
    ids.set(tokens.subarray(offset, offset + seqLen), i * seqLen)
  })
  const hash = createHash('sha256').update(`${seqLen}\n`).update(new Uint8Array(ids.buffer)).digest('hex')
  return { ids, samples, seqLen, offsets, hash }
}
