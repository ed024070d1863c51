/** One decoder block: gather the Hessians of its linear layers' inputs, quantize the layers, run the result. */
import type { DecoderBlockSpec, LinearSpec } from '../architecture/spec.js'
import type { CalibrationSamples } from '../calibration/samples.js'
import { SlimError } from '../errors.js'
import {
  type BlockWeights,
  type NativeHessian,
  type NativeJob,
  type NativeTensor,
  run as runJob,
  type StagedPass,
  type TapName,
} from '../native/addon.js'
import { Handles } from '../native/handles.js'
import { layerReport, NOTHING_MEASURED } from '../packed/entries.js'
import type { LayerReport } from '../packed/manifest.js'
import type { Backend, CalibrationRows } from './backend.js'
import type { Recipe } from './options.js'
import type { LayerPlan } from './plan.js'
import { PHASES, type Seconds, secondsSince, timed } from './seconds.js'

export type Hessians = Partial<Record<TapName, NativeHessian>>

/** What all steps of a run share. */
export interface StepContext {
  backend: Backend
  recipe: Recipe
  plan: ReadonlyMap<string, LayerPlan>
  threads: number
  signal?: AbortSignal
  onLayer?: (name: string) => void
  onPropagate?: () => void
}

/** The calibration windows on their way through the blocks. */
export interface CalibrationStates {
  samples: CalibrationSamples
  /** [samples × seqLen, hidden]: what enters the next block. */
  states: CalibrationRows
  /** Of a sequential recipe: the passes that halt inside blocks; `pass.states` is `states`. */
  staged: StagedCalibration | null
}

export interface StagedCalibration {
  pass: StagedPass<CalibrationRows>
  /** Of the unquantized blocks, where layers make up for the drift between the two. */
  original: StagedPass<CalibrationRows> | null
}

/** SBA's KL looks at about this many tokens (as the public code's figures: every eighth of 64 × 512). */
const SALIENCE_TOKENS = 4096

/** The inputs of linear layers in the order in which layers see each other's outputs. */
const STAGES: TapName[] = ['qkv', 'o', 'gateUp', 'down']

/**
 * Quantizes every planned layer of the block, puts the packed matrix in place of the weight, and replaces the states by
 * the output of the block. Of a sequential recipe the inputs of a layer are gathered with the layers before it
 * quantized, else with none.
 */
export async function quantizeBlock(
  block: DecoderBlockSpec,
  weights: BlockWeights,
  calibration: CalibrationStates | null,
  context: StepContext,
  seconds: Seconds,
): Promise<LayerReport[]> {
  if (!calibration) return quantizeLayers(block.linears, weights, null, context, seconds)
  if (calibration.staged) return quantizeInStages(block, weights, calibration, context, seconds)
  using handles = new Handles()
  const taps = newHessians(block.linears, calibration, context, handles)
  await timed(seconds, 'calibrate', () => forward(block, weights, calibration, context, taps))
  const layers = await quantizeLayers(block.linears, weights, taps, context, seconds)
  context.onPropagate?.()
  await timed(seconds, 'propagate', () => forward(block, weights, calibration, context))
  return layers
}

async function quantizeInStages(
  block: DecoderBlockSpec,
  weights: BlockWeights,
  { staged, samples }: CalibrationStates,
  context: StepContext,
  seconds: Seconds,
): Promise<LayerReport[]> {
  const { pass, original } = staged!
  using handles = new Handles()
  const { backend, threads, signal } = context
  const beside = original && {
    block: handles.own(await backend.block(block.spec, weights)),
    pass: original,
  }
  const run = async (stage: TapName | 'end', hessian?: NativeHessian) => {
    using own = new Handles()
    const native = own.own(await backend.block(block.spec, weights))
    const options = { sequenceLength: samples.seqLen, pass, hessian, original: beside ?? undefined }
    await runJob(native.stage(stage, options, threads), signal)
  }
  const layers: LayerReport[] = []
  for (const stage of STAGES) {
    using own = new Handles()
    const linears = block.linears.filter(({ tap }) => tap === stage)
    const taps = newHessians(linears, { samples }, context, own)
    await timed(seconds, 'calibrate', () => run(stage, taps[stage]))
    layers.push(...(await quantizeLayers(linears, weights, taps, context, seconds)))
  }
  context.onPropagate?.()
  await timed(seconds, 'propagate', () => run('end'))
  return layers
}

/** A Hessian for each distinct input; those of SBA keep some of their rows. */
function newHessians(
  linears: readonly LinearSpec[],
  { samples }: Pick<CalibrationStates, 'samples'>,
  { recipe: { allocation }, backend }: StepContext,
  handles: Handles,
): Hessians {
  const keepEvery = allocation === 'sba' ? Math.max(1, Math.floor(samples.ids.length / SALIENCE_TOKENS)) : 0
  const taps: Hessians = {}
  for (const { tap, cols } of linears) taps[tap] ??= handles.own(backend.hessian(cols, keepEvery))
  return taps
}

async function quantizeLayers(
  linears: readonly LinearSpec[],
  weights: BlockWeights,
  hessians: Hessians | null,
  context: StepContext,
  seconds: Seconds,
): Promise<LayerReport[]> {
  const layers: LayerReport[] = []
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
  return layers
}

async function quantizeLayer(
  weight: NativeTensor,
  { linear, bits, groupSize, groupBits }: LayerPlan,
  hessian: NativeHessian,
  { backend, recipe, threads, signal }: StepContext,
  seconds: Seconds,
) {
  const { allocation } = recipe
  const search = allocation === 'fisher' ? 'uniform' : allocation // 'fisher' was done for the whole model
  const options = { ...recipe, bits, groupSize, allocation: groupBits ?? search }
  const result = await forLayer(
    linear.name,
    backend.quantizeLinear(weight, hessian, options, threads),
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
  { backend, recipe, threads, signal }: StepContext,
) {
  const groupBits = given ?? new Uint8Array(Math.ceil(linear.cols / groupSize)).fill(bits)
  const options = { groupSize, quantizer: recipe.quantizer }
  const packed = await forLayer(linear.name, backend.fitGroups(weight, groupBits, options, threads), signal)
  return { packed, groupBits, ...NOTHING_MEASURED }
}

/** Replaces the states by the output of the block; with taps, gathers the inputs of its layers instead. */
export async function forward(
  block: DecoderBlockSpec,
  weights: BlockWeights,
  { states, samples }: Pick<CalibrationStates, 'states' | 'samples'>,
  { backend, threads, signal }: Pick<StepContext, 'backend' | 'threads' | 'signal'>,
  taps?: Hessians,
): Promise<void> {
  using handles = new Handles()
  const native = handles.own(await backend.block(block.spec, weights))
  await runJob(native.forward(states, { sequenceLength: samples.seqLen, taps }, threads), signal)
}

/** Errors of a layer's step name its weight. */
export async function forLayer<T>(name: string, job: NativeJob<T>, signal?: AbortSignal): Promise<T> {
  try {
    return await runJob(job, signal)
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
