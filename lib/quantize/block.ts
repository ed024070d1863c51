/** One decoder block: gather the Hessians of its linear layers' inputs, quantize the layers, run the result. */
import type { DecoderBlockSpec, LinearSpec } from '../architecture/spec.js'
import type { CalibrationSamples } from '../calibration/samples.js'
import { SlimError } from '../errors.js'
import {
  addon,
  type BlockWeights,
  type NativeDecoderBlock,
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
 * The inputs of linear layers in the order in which layers see each other's outputs: of a sequential recipe each is
 * gathered with the layers before it quantized, else all are with none.
 */
const INPUTS: TapName[] = ['qkv', 'o', 'gateUp', 'down']

/**
 * Quantizes every planned layer of the block and puts the packed matrix in place of the weight. The states stay as they
 * are; the original states, if any, become the original block's output.
 */
export async function quantizeBlock(
  block: DecoderBlockSpec,
  weights: BlockWeights,
  calibration: CalibrationStates | null,
  context: StepContext,
  seconds: Seconds,
): Promise<LayerReport[]> {
  const layers: LayerReport[] = []
  if (!calibration) {
    await quantizeLayers(block.linears, weights, null, { ...context, layers }, seconds)
    return layers
  }
  using handles = new Handles()
  const original = handles.own(new (addon().DecoderBlock)(block.spec, weights))
  for (const stage of context.recipe.sequential ? INPUTS.map((input) => [input]) : [INPUTS]) {
    const linears = block.linears.filter(({ tap }) => stage.includes(tap))
    const advance = stage.includes('down')
    using hessians = new Handles()
    const taps = newHessians(linears, calibration, context.recipe)
    for (const hessian of Object.values(taps)) hessians.own(hessian)
    const gather = () => forward(block, weights, calibration, context, { taps, original, advance })
    await timed(seconds, 'calibrate', gather)
    await quantizeLayers(linears, weights, taps, { ...context, layers }, seconds)
  }
  return layers
}

/** A Hessian for each distinct input; those of SBA keep some of their rows. */
function newHessians(
  linears: readonly LinearSpec[],
  { samples }: CalibrationStates,
  { allocation }: Recipe,
): Hessians {
  const keepEvery = allocation === 'sba' ? Math.max(1, Math.floor(samples.ids.length / SALIENCE_TOKENS)) : 0
  const taps: Hessians = {}
  for (const { tap, cols } of linears) taps[tap] ??= new (addon().Hessian)(cols, keepEvery)
  return taps
}

async function quantizeLayers(
  linears: readonly LinearSpec[],
  weights: BlockWeights,
  hessians: Hessians | null,
  { layers, ...context }: StepContext & { layers: LayerReport[] },
  seconds: Seconds,
): Promise<void> {
  for (const { role, name, tap } of linears) {
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

/** What a forward pass for the Hessians is given. */
interface Gathering {
  taps: Hessians
  original: NativeDecoderBlock
  /** The original states become the original block's output. */
  advance: boolean
}

async function forward(
  block: DecoderBlockSpec,
  weights: BlockWeights,
  { states, originalStates, samples }: CalibrationStates,
  { threads, signal }: StepContext,
  gathering?: Gathering,
): Promise<void> {
  using handles = new Handles()
  const native = handles.own(new (addon().DecoderBlock)(block.spec, weights))
  const original =
    gathering && originalStates
      ? { block: gathering.original, states: originalStates, advance: gathering.advance }
      : undefined
  const options = { sequenceLength: samples.seqLen, taps: gathering?.taps, original }
  await run(native.forward(states, options, threads), signal)
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
