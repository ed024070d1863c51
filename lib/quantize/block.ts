/** One decoder block: gather the Hessians of its linear layers' inputs, quantize the layers, run the result. */
import type { DecoderBlockSpec } from '../architecture/spec.js'
import type { CalibrationSamples } from '../calibration/samples.js'
import { SlimError } from '../errors.js'
import {
  addon,
  type BlockWeights,
  type NativeHessian,
  type NativeJob,
  type NativeTensor,
  run,
  type TapName,
} from '../native/addon.js'
import { Handles } from '../native/handles.js'
import { layerReport, NOTHING_MEASURED } from '../packed/entries.js'
import type { LayerReport } from '../packed/manifest.js'
import type { Recipe } from './options.js'
import type { LayerPlan } from './plan.js'
import { PHASES, type Seconds, secondsSince, timed } from './seconds.js'

export type Hessians = Partial<Record<TapName, NativeHessian>>

/** What all steps of a run share. */
export interface StepContext {
  recipe: Recipe
  plan: ReadonlyMap<string, LayerPlan>
  threads: number
  signal?: AbortSignal
  onLayer?: (name: string) => void
}

/** The hidden states [samples × seqLen, hidden] that enter the next block, and how long a sequence is. */
export interface CalibrationStates {
  states: NativeTensor
  /** The states that the unquantized blocks give, where weights make up for the drift between the two. */
  originalStates: NativeTensor | null
  samples: CalibrationSamples
}

/** SBA's KL looks at about this many tokens (as the public code's figures: every eighth of 64 × 512). */
const SALIENCE_TOKENS = 4096

/**
 * Runs the full-precision block and gathers H = (2/N) Σ XᵀX for each distinct input of its linear layers; the original
 * states, if any, become its output.
 */
export async function calibrateBlock(
  block: DecoderBlockSpec,
  weights: BlockWeights,
  calibration: CalibrationStates,
  context: StepContext,
  seconds: Seconds,
): Promise<Hessians> {
  const taps: Hessians = {}
  const keepEvery =
    context.recipe.allocation === 'sba'
      ? Math.max(1, Math.floor(calibration.samples.ids.length / SALIENCE_TOKENS))
      : 0
  for (const { tap, cols } of block.linears) taps[tap] ??= new (addon().Hessian)(cols, keepEvery)
  try {
    await timed(seconds, 'calibrate', () => forward(block, weights, calibration, context, taps))
  } catch (error) {
    for (const hessian of Object.values(taps)) hessian.dispose()
    throw error
  }
  return taps
}

/** Quantizes every planned layer and puts the packed matrix in place of the weight; the Hessians are used up. */
export async function quantizeBlock(
  block: DecoderBlockSpec,
  weights: BlockWeights,
  hessians: Hessians | null,
  context: StepContext,
  seconds: Seconds,
): Promise<LayerReport[]> {
  using handles = new Handles()
  for (const hessian of Object.values(hessians ?? {})) handles.own(hessian)
  const layers: LayerReport[] = []
  for (const { role, name, tap } of block.linears) {
    const layer = context.plan.get(name)!
    if (layer.skip) continue
    context.onLayer?.(name)
    const started = performance.now()
    const linear = weights.linears[role]!
    const weight = linear.weight as NativeTensor
    const result = await (hessians
      ? quantizeLayer(weight, layer, hessians[tap]!, context, seconds)
      : fitLayer(weight, layer, context))
    linear.weight = result.packed
    weight.dispose()
    seconds.layers[name] = secondsSince(started)
    layers.push(layerReport(name, result.packed, result))
  }
  return layers
}

/** Replaces the states by the output of the block. */
export function propagate(
  block: DecoderBlockSpec,
  weights: BlockWeights,
  calibration: CalibrationStates,
  context: StepContext,
  seconds: Seconds,
): Promise<void> {
  return timed(seconds, 'propagate', () => forward(block, weights, calibration, context))
}

async function quantizeLayer(
  weight: NativeTensor,
  { linear, bits, groupSize, groupBits }: LayerPlan,
  hessian: NativeHessian,
  { recipe, threads, signal }: StepContext,
  seconds: Seconds,
) {
  const { allocation } = recipe
  const search = allocation === 'fisher' ? 'uniform' : allocation // 'fisher' was done for the whole model
  const options = { ...recipe, bits, groupSize, allocation: groupBits ?? search }
  const result = await forLayer(
    linear.name,
    addon().quantizeLinear(weight, hessian, options, threads),
    signal,
  )
  for (const phase of PHASES)
    if (phase in result.seconds) seconds[phase] += result.seconds[phase as keyof typeof result.seconds]
  return result
}

/** Without calibration there is nothing to compensate and no output error to measure. */
async function fitLayer(
  weight: NativeTensor,
  { linear, bits, groupSize, groupBits: given }: LayerPlan,
  { recipe, threads, signal }: StepContext,
) {
  const groupBits = given ?? new Uint8Array(Math.ceil(linear.cols / groupSize)).fill(bits)
  const options = { groupSize, quantizer: recipe.quantizer }
  const packed = await forLayer(linear.name, addon().fitGroups(weight, groupBits, options, threads), signal)
  return { packed, groupBits, ...NOTHING_MEASURED }
}

async function forward(
  block: DecoderBlockSpec,
  weights: BlockWeights,
  { states, originalStates, samples }: CalibrationStates,
  { threads, signal }: StepContext,
  taps?: Hessians,
): Promise<void> {
  const native = new (addon().DecoderBlock)(block.spec, weights)
  const original = taps && originalStates ? { block: native, states: originalStates } : undefined
  try {
    const options = { sequenceLength: samples.seqLen, taps, original }
    await run(native.forward(states, options, threads), signal)
  } finally {
    native.dispose()
  }
}

/** Errors of a layer's step name its weight. */
async function forLayer<T>(name: string, job: NativeJob<T>, signal?: AbortSignal): Promise<T> {
  try {
    return await run(job, signal)
  } catch (error) {
    throw error instanceof SlimError
      ? new SlimError(error.code, `${name}: ${error.message}`, {
          ...error,
          remedy: undefined,
          tensor: `${name}.weight`,
          cause: error,
        })
      : error
  }
}
