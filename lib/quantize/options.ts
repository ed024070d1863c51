/** What the caller of quantize() chooses, checked and completed with the defaults. */
import os from 'node:os'
import type { SamplingOptions } from '../calibration/samples.js'
import { SlimError } from '../errors.js'

/**
 * - `rtn`: round to nearest, min-max scales.
 * - `gptq`: min-max scales, error feedback through the Hessian (arXiv 2210.17323).
 * - `slim-paper`: SliM-LLM as published (arXiv 2405.14917): SBA + SQC + GPTQ.
 * - `slim`: the best that this package has; at present the same as `slim-paper`.
 */
export type Method = 'slim' | 'slim-paper' | 'gptq' | 'rtn'

export interface LayerOverride {
  bits?: number
  groupSize?: number
  /** Keep the layer as it is in the source. */
  skip?: boolean
}

export interface CalibrationOptions extends SamplingOptions {
  /** UTF-8 text file. */
  file?: string
  /** The text itself, in place of a file. */
  text?: string
}

/** Bits of every group, by layer name ("model.layers.0.self_attn.q_proj"). */
export type BitMap = Record<string, readonly number[]>

export interface QuantizeProgress {
  /** Blocks done and in all; `layer` is the one being quantized. */
  block: number
  blocks: number
  phase: 'calibrate' | 'quantize' | 'propagate' | 'finish'
  layer?: string
  /** Seconds since the start, and an estimate of those left (null before the first block is done). */
  seconds: number
  secondsLeft: number | null
}

export interface QuantizeOptions {
  /** Folder to make. It must not exist, unless it holds an earlier result and `overwrite` is set. */
  output: string
  /** Mean bits of the codes, 1 – 8 (default 2). */
  bits?: number
  /** Input channels that share a scale: 32, 64, 128 or 256 (default 64). The last group may be shorter. */
  groupSize?: number
  method?: Method
  /** How group bits are chosen, if not as the method does: salience-determined (SBA) or all the same. */
  allocation?: 'sba' | 'uniform'
  /** How scales are chosen, if not as the method does: salience-weighted calibration (SQC) or min-max. */
  quantizer?: 'sqc' | 'minmax'
  /** Required by all methods but `rtn`. */
  calibration?: CalibrationOptions
  /** By glob over layer names: `*` within a dotted part, `**` across parts. The last match of a field wins. */
  overrides?: Record<string, LayerOverride>
  /** Given group bits in place of the search: a map, or the path of a `slimllm.json`. */
  bitMap?: BitMap | string
  /** Quantize the embedding table to this many bits (tied heads follow it); kept by default. */
  embeddingBits?: number
  /** Quantize an untied lm_head to this many bits; kept by default. */
  headBits?: number
  device?: 'auto' | 'cpu' | 'cuda'
  /** Threads of the native code (default: all cores). Results do not depend on it. */
  threads?: number
  /** Replace a finished slimllm folder at `output`. */
  overwrite?: boolean
  /** Discard an unfinished run at `output` instead of continuing it. */
  restart?: boolean
  onProgress?: (progress: QuantizeProgress) => void
  signal?: AbortSignal
}

/** The parts of a method, each of which can be switched alone. */
export interface Recipe {
  allocation: 'sba' | 'uniform'
  quantizer: 'sqc' | 'minmax'
  compensation: 'gptq' | 'none'
}

const RECIPES: Record<Method, Recipe> = {
  rtn: { allocation: 'uniform', quantizer: 'minmax', compensation: 'none' },
  gptq: { allocation: 'uniform', quantizer: 'minmax', compensation: 'gptq' },
  'slim-paper': { allocation: 'sba', quantizer: 'sqc', compensation: 'gptq' },
  slim: { allocation: 'sba', quantizer: 'sqc', compensation: 'gptq' },
}

/** The choices that decide the packed bytes; they are recorded in the manifest and must match to resume. */
export interface Settings {
  method: Method
  recipe: Recipe
  bits: number
  groupSize: number
  overrides: Record<string, LayerOverride>
  embeddingBits: number | null
  headBits: number | null
}

export function resolveSettings(options: QuantizeOptions): Settings {
  const { bits = 2, groupSize = 64, method = 'slim', overrides = {} } = options
  if (!(method in RECIPES))
    throw SlimError.invalidArgument('method', `one of ${Object.keys(RECIPES).join(', ')}`, method)
  checkBits('bits', bits)
  checkGroupSize('groupSize', groupSize)
  for (const [glob, override] of Object.entries(overrides)) {
    if (override.bits !== undefined) checkBits(`overrides["${glob}"].bits`, override.bits)
    if (override.groupSize !== undefined) checkGroupSize(`overrides["${glob}"].groupSize`, override.groupSize)
  }
  for (const parameter of ['embeddingBits', 'headBits'] as const)
    if (options[parameter] !== undefined) checkBits(parameter, options[parameter])
  checkChoice('allocation', options.allocation, ['sba', 'uniform'])
  checkChoice('quantizer', options.quantizer, ['sqc', 'minmax'])
  const recipe = {
    ...RECIPES[method],
    ...(options.allocation && { allocation: options.allocation }),
    ...(options.quantizer && { quantizer: options.quantizer }),
  }
  if (!options.calibration && (recipe.compensation === 'gptq' || recipe.allocation === 'sba'))
    throw SlimError.invalidArgument(
      'calibration',
      `{ file } or { text } for method ${method}`,
      undefined,
      'Only plain rtn works without calibration text',
    )
  return {
    method,
    recipe,
    bits,
    groupSize,
    overrides,
    embeddingBits: options.embeddingBits ?? null,
    headBits: options.headBits ?? null,
  }
}

/** 'auto' and 'cpu' run here; there is no CUDA backend yet, and asking for one is an error, not a fallback. */
export function checkDevice(device: string | undefined): void {
  checkChoice('device', device, ['auto', 'cpu', 'cuda'])
  if (device === 'cuda')
    throw new SlimError('SLIM_DEVICE_UNAVAILABLE', 'This version has no CUDA backend', {
      parameter: 'device',
      remedy: "Use device: 'cpu' or 'auto'",
    })
}

export function checkThreads(threads: number | undefined): number {
  if (threads === undefined) return os.availableParallelism()
  if (!Number.isInteger(threads) || threads < 1 || threads > 1024)
    throw SlimError.invalidArgument('threads', 'a whole number from 1 to 1024', threads)
  return threads
}

export const GROUP_SIZES = [32, 64, 128, 256]

function checkBits(parameter: string, bits: number): void {
  if (!Number.isInteger(bits) || bits < 1 || bits > 8)
    throw SlimError.invalidArgument(parameter, 'a whole number from 1 to 8', bits)
}

function checkGroupSize(parameter: string, groupSize: number): void {
  if (!GROUP_SIZES.includes(groupSize))
    throw SlimError.invalidArgument(parameter, `one of ${GROUP_SIZES.join(', ')}`, groupSize)
}

function checkChoice(parameter: string, value: string | undefined, choices: string[]): void {
  if (value !== undefined && !choices.includes(value))
    throw SlimError.invalidArgument(parameter, `one of ${choices.join(', ')}`, value)
}
