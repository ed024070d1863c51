/**
 * Group widths for the whole model at once, within an exact stored budget: the error that a width would leave in a group
 * is weighed by the Fisher information of the layer's outputs, so that bits go where the model's own predictions would
 * suffer most. docs/methods.md gives the score.
 */
import type { DecoderSpec } from '../architecture/spec.js'
import type { CalibrationSamples } from '../calibration/samples.js'
import type { Checkpoint } from '../checkpoint/checkpoint.js'
import { SlimError } from '../errors.js'
import type { NativeTensor } from '../native/addon.js'
import { forLayer, type StepContext } from './block.js'
import { allocateBudget, type BudgetLayer, checkBudget, MOST_BITS, storedLayerBits } from './budget.js'
import { type FisherOptions, fisherInformation } from './fisher.js'
import type { BitMap, Settings } from './options.js'
import type { LayerPlan } from './plan.js'

/** Windows that the Fisher information and the errors are taken on. */
const FISHER_WINDOWS = 8

/** Refuses, before the long work, what the allocation could not keep or could not measure. */
export function checkAllocation(
  plan: ReadonlyMap<string, LayerPlan>,
  settings: Settings,
  samples: CalibrationSamples | null,
): void {
  if (settings.recipe.allocation !== 'fisher') return
  const pools = budgetPools([...plan.values()], settings)
  for (const { layers, budget } of pools) checkBudget(layers, budget)
  if (settings.bitsPerWeight !== null && !pools.some(({ shared }) => shared))
    throw SlimError.invalidArgument(
      'bitsPerWeight',
      'nothing where every layer is kept or has bits of its own',
      settings.bitsPerWeight,
      'Leave bitsPerWeight out, or some layers without an override',
    )
  if (samples && samples.seqLen < 2)
    throw SlimError.invalidArgument(
      'calibration.seqLen',
      'at least 2 tokens: the Fisher information is that of tokens after others',
      samples.seqLen,
    )
}

/** The bits of every group of the layers whose groups are not given, by layer name. */
export async function allocateByFisher(
  checkpoint: Checkpoint,
  spec: DecoderSpec,
  samples: CalibrationSamples,
  settings: Settings,
  { backend, plan, threads, signal }: Pick<StepContext, 'backend' | 'plan' | 'threads' | 'signal'>,
  walk: Pick<FisherOptions, 'spillFolder' | 'loadBlock' | 'onProgress'>,
): Promise<BitMap> {
  const pools = budgetPools([...plan.values()], settings)
  const { seqLen } = samples
  const count = Math.min(FISHER_WINDOWS, samples.samples)
  const windows = { ...samples, samples: count, ids: samples.ids.subarray(0, count * seqLen) }
  const errors = new Map<string, Float64Array>()
  await fisherInformation(checkpoint, spec, windows, {
    ...walk,
    backend,
    threads,
    signal,
    hessians: { keepEvery: 0 },
    onBlock: async (block, weights, { fisher, hessians }) => {
      for (const { name, role, tap } of block.linears) {
        const { groupSize, skip, groupBits } = plan.get(name)!
        if (skip || groupBits) continue
        const job = backend.groupErrors(
          weights.linears[role]!.weight as NativeTensor,
          hessians[tap]!,
          fisher.get(name)!,
          { groupSize, quantizer: settings.recipe.quantizer, mostBits: MOST_BITS },
          threads,
        )
        errors.set(name, await forLayer(name, job, signal))
      }
    },
  })
  const allocated: Record<string, number[]> = {}
  for (const { layers, budget } of pools) {
    const scored = layers.map((layer) => ({ ...layer, errors: errors.get(layer.name)! }))
    for (const [name, groupBits] of allocateBudget(scored, budget)) allocated[name] = [...groupBits]
  }
  return allocated
}

/**
 * Layers with the same target share one budget: what all their groups at this width would store; those that
 * bitsPerWeight is for, as many bits a weight.
 */
function budgetPools(
  plan: readonly LayerPlan[],
  { bitsPerWeight }: Settings,
): { layers: BudgetLayer[]; budget: number; shared: boolean }[] {
  const pools = new Map<number | null, BudgetLayer[]>()
  for (const { linear, bits, ownBits, groupSize, skip, groupBits } of plan) {
    if (skip || groupBits) continue
    const { name, rows, cols } = linear
    const target = bitsPerWeight === null || ownBits ? bits : null
    pools.set(target, [...(pools.get(target) ?? []), { name, rows, cols, groupSize }])
  }
  return [...pools].map(([target, layers]) => {
    const sum = (of: (layer: BudgetLayer) => number) => layers.reduce((total, layer) => total + of(layer), 0)
    const weights = sum(({ rows, cols }) => rows * cols)
    const budget = target === null ? bitsPerWeight! * weights : sum((layer) => storedLayerBits(layer, target))
    return { layers, budget, shared: target === null }
  })
}
