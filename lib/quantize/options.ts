/** What the caller of quantize() chooses, checked and completed with the defaults. */
import type { SamplingOptions } from '../calibration/samples.js'
import { SlimError } from '../errors.js'
import { isObject } from '../files.js'
import type { Quantizer } from '../native/addon.js'
import type { Device } from '../native/device.js'
import type { SlimWarning } from '../warnings.js'

/**
 * - `rtn`: round to nearest, min-max scales.
 * - `gptq`: min-max scales, error feedback through the Hessian (arXiv 2210.17323).
 * - `slim-paper`: SliM-LLM as published (arXiv 2405.14917): SBA + SQC + GPTQ.
 * - `slim`: the best that this package has: group widths by Fisher information within a stored budget, wide scale
 *   search, error feedback, refinement (docs/methods.md).
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
  /**
   * `resume` comes first, and once, where an unfinished run with blocks done is continued: `block` of them. Then each
   * of those blocks comes again as `propagate`, for its effect on the states.
   */
  phase: 'resume' | 'sensitivity' | 'calibrate' | 'quantize' | 'propagate' | 'finish'
  layer?: string
  /**
   * Seconds since the start, and an estimate of those left: from the blocks done, of an interrupted run at first; null
   * before any is.
   */
  seconds: number
  secondsLeft: number | null
}

export interface QuantizeOptions {
  /** Folder to make. It must not exist, unless it holds an earlier result and `overwrite` is set. */
  output: string
  /**
   * 1 – 8 (default 2). Of `slim`: the layers together store as much as if all groups had so many bits; of the other
   * methods: mean bits of the codes.
   */
  bits?: number
  /** Of `slim`, in place of bits: what the layers store a weight, everything counted, for example 2.28. */
  bitsPerWeight?: number
  /** Input channels that share a scale: 32, 64, 128 or 256 (default 64). The last group may be shorter. */
  groupSize?: number
  method?: Method
  /**
   * How group bits are chosen, if not as the method does: by Fisher information over all layers, salience-determined
   * within each (SBA), or all the same.
   */
  allocation?: Recipe['allocation']
  /** How scales are chosen, if not as the method does: wide search, salience-weighted calibration (SQC), min-max. */
  quantizer?: Recipe['quantizer']
  /** Most sweeps of the refinement after GPTQ, if not as the method does (0 – 100). */
  sweeps?: number
  /** How far layers make up for the drift of their inputs, and of the states they add to, 0 – 1, if not as the method does. */
  inputDriftWeight?: number
  stateDriftWeight?: number
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
  device?: Device
  /** Threads of the native code (default: all cores). Results do not depend on it. */
  threads?: number
  /** Replace a finished slimllm folder at `output`. */
  overwrite?: boolean
  /** Discard an unfinished run at `output` instead of continuing it. */
  restart?: boolean
  onProgress?: (progress: QuantizeProgress) => void
  onWarning?: (warning: SlimWarning) => void
  signal?: AbortSignal
}

/** The parts of a method. */
export interface Recipe {
  allocation: 'fisher' | 'sba' | 'uniform'
  quantizer: Quantizer
  compensation: 'gptq' | 'none'
  /** Inside a block, inputs of a layer come from the quantized layers before it. */
  sequential: boolean
  /** Most sweeps of the refinement after GPTQ. */
  sweeps: number
  /** How far layers make up for the drift of their inputs, and of the states they add to. */
  inputDriftWeight: number
  stateDriftWeight: number
}

const PLAIN = { sequential: false, sweeps: 0, inputDriftWeight: 0, stateDriftWeight: 0 }

const RECIPES: Record<Method, Recipe> = {
  rtn: { allocation: 'uniform', quantizer: 'minmax', compensation: 'none', ...PLAIN },
  gptq: { allocation: 'uniform', quantizer: 'minmax', compensation: 'gptq', ...PLAIN },
  'slim-paper': { allocation: 'sba', quantizer: 'sqc', compensation: 'gptq', ...PLAIN },
  slim: {
    ...{ allocation: 'fisher', quantizer: 'wide', compensation: 'gptq', sequential: true, sweeps: 8 },
    ...{ inputDriftWeight: 0.25, stateDriftWeight: 0.25 },
  },
}

/** The choices that decide the packed bytes; they are recorded in the manifest and must match to resume. */
export interface Settings {
  method: Method
  recipe: Recipe
  bits: number
  bitsPerWeight: number | null
  groupSize: number
  overrides: Record<string, LayerOverride>
  embeddingBits: number | null
  headBits: number | null
}

const OPTION_NAMES: readonly (keyof QuantizeOptions)[] = [
  'output',
  'bits',
  'bitsPerWeight',
  'groupSize',
  'method',
  'allocation',
  'quantizer',
  'sweeps',
  'inputDriftWeight',
  'stateDriftWeight',
  'calibration',
  'overrides',
  'bitMap',
  'embeddingBits',
  'headBits',
  'device',
  'threads',
  'overwrite',
  'restart',
  'onProgress',
  'onWarning',
  'signal',
]
const CALIBRATION_NAMES: readonly (keyof CalibrationOptions)[] = [
  'file',
  'text',
  'samples',
  'seqLen',
  'seed',
  'offsets',
]

/** A misspelt option must not become a silent default. */
function checkKeys(parameter: string, given: unknown, names: readonly string[]): void {
  if (!isObject(given)) throw SlimError.invalidArgument(parameter, 'an object', given)
  const unknown = Object.keys(given).find((name) => !names.includes(name))
  if (unknown === undefined) return
  const name = parameter === 'options' ? unknown : `${parameter}.${unknown}`
  throw SlimError.invalidArgument(name, `no such option (there are ${names.join(', ')})`, given[unknown])
}

export function resolveSettings(options: QuantizeOptions): Settings {
  checkKeys('options', options, OPTION_NAMES)
  if (options.calibration !== undefined) checkKeys('calibration', options.calibration, CALIBRATION_NAMES)
  const { bitsPerWeight = null, groupSize = 64, method = 'slim', overrides = {} } = options
  checkChoice('method', method, Object.keys(RECIPES))
  if (options.bits !== undefined) checkBits('bits', options.bits)
  const bits = options.bits ?? Math.min(Math.max(Math.floor(bitsPerWeight ?? 2), 1), 8)
  checkGroupSize('groupSize', groupSize)
  if (!isObject(overrides)) throw SlimError.invalidArgument('overrides', 'an object of globs', overrides)
  for (const [glob, override] of Object.entries(overrides)) checkOverride(`overrides["${glob}"]`, override)
  for (const parameter of ['embeddingBits', 'headBits'] as const)
    if (options[parameter] !== undefined) checkBits(parameter, options[parameter])
  checkChoice('allocation', options.allocation, ['fisher', 'sba', 'uniform'])
  checkChoice('quantizer', options.quantizer, ['wide', 'sqc', 'minmax'])
  const recipe: Recipe = {
    ...RECIPES[method],
    ...(options.allocation && { allocation: options.allocation }),
    ...(options.quantizer && { quantizer: options.quantizer }),
  }
  for (const part of ['sweeps', 'inputDriftWeight', 'stateDriftWeight'] as const)
    recipe[part] = options[part] ?? recipe[part]
  checkParts(recipe)
  if (bitsPerWeight !== null) checkBudgetOption(bitsPerWeight, options, recipe)
  if (!options.calibration && (recipe.compensation === 'gptq' || recipe.allocation !== 'uniform'))
    throw SlimError.invalidArgument(
      'calibration',
      `a text, which method ${method} needs,`,
      undefined,
      'Only plain rtn works without calibration text',
    )
  return {
    method,
    recipe,
    bits,
    bitsPerWeight,
    groupSize,
    overrides,
    embeddingBits: options.embeddingBits ?? null,
    headBits: options.headBits ?? null,
  }
}

const OVERRIDE_CHECKS: Record<keyof LayerOverride, (parameter: string, value: unknown) => void> = {
  bits: checkBits,
  groupSize: checkGroupSize,
  skip: (parameter, value) => {
    if (typeof value !== 'boolean') throw SlimError.invalidArgument(parameter, 'true or false', value)
  },
}

function checkOverride(parameter: string, override: unknown): void {
  const fields = Object.keys(OVERRIDE_CHECKS).join(', ')
  if (!isObject(override)) throw SlimError.invalidArgument(parameter, `an object of ${fields}`, override)
  for (const [field, value] of Object.entries(override)) {
    if (!Object.hasOwn(OVERRIDE_CHECKS, field))
      throw SlimError.invalidArgument(`${parameter}.${field}`, `no field but ${fields}`, value)
    if (value !== undefined) OVERRIDE_CHECKS[field as keyof LayerOverride](`${parameter}.${field}`, value)
  }
}

const GROUP_SIZES = [32, 64, 128, 256]

function checkBits(parameter: string, bits: unknown): void {
  if (!Number.isInteger(bits) || (bits as number) < 1 || (bits as number) > 8)
    throw SlimError.invalidArgument(parameter, 'a whole number from 1 to 8', bits)
}

function checkParts(recipe: Recipe): void {
  const { sweeps, compensation, sequential } = recipe
  if (!Number.isInteger(sweeps) || sweeps < 0 || sweeps > 100)
    throw SlimError.invalidArgument('sweeps', 'a whole number from 0 to 100', sweeps)
  if (sweeps > 0 && compensation === 'none')
    throw SlimError.invalidArgument('sweeps', '0 for a method without GPTQ', sweeps)
  for (const part of ['inputDriftWeight', 'stateDriftWeight'] as const) {
    const weight: unknown = recipe[part]
    if (!(typeof weight === 'number' && weight >= 0 && weight <= 1))
      throw SlimError.invalidArgument(part, 'a number from 0 to 1', weight)
    if (weight > 0 && !sequential)
      throw SlimError.invalidArgument(part, '0 for a method whose calibration is not sequential', weight)
  }
}

/** A budget is for the allocation that can keep it, and one target is enough; checkAllocation() knows its range. */
function checkBudgetOption(
  bitsPerWeight: unknown,
  { bits, bitMap }: QuantizeOptions,
  { allocation }: Recipe,
): void {
  if (typeof bitsPerWeight !== 'number' || !(bitsPerWeight > 0))
    throw SlimError.invalidArgument('bitsPerWeight', 'a number above 0', bitsPerWeight)
  const clash =
    bits !== undefined
      ? 'nothing beside bits'
      : bitMap !== undefined
        ? 'nothing beside bitMap'
        : allocation !== 'fisher' && `nothing with allocation ${allocation}`
  if (clash)
    throw SlimError.invalidArgument(
      'bitsPerWeight',
      clash,
      bitsPerWeight,
      'Give one of them; slim keeps a budget',
    )
}

function checkGroupSize(parameter: string, groupSize: unknown): void {
  if (!GROUP_SIZES.includes(groupSize as number))
    throw SlimError.invalidArgument(parameter, `one of ${GROUP_SIZES.join(', ')}`, groupSize)
}

function checkChoice(parameter: string, value: unknown, choices: string[]): void {
  if (value !== undefined && !choices.includes(value as string))
    throw SlimError.invalidArgument(parameter, `one of ${choices.join(', ')}`, value)
}
