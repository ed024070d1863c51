/** The hidden states of calibration samples before the first block, and the passes that carry them on. */
import type { DecoderSpec } from '../architecture/spec.js'
import type { CalibrationSamples } from '../calibration/samples.js'
import type { Checkpoint } from '../checkpoint/checkpoint.js'
import { addon, type NativeTensor, run } from '../native/addon.js'
import { Handles } from '../native/handles.js'
import { loadEmbedding } from '../runtime/weights.js'
import type { CalibrationStates, StepContext } from './block.js'

/** States larger than this in all live in unlinked files, so that a 7B model calibrates in little memory. */
export const SPILL_BYTES = 2 ** 30

export async function embedSamples(
  checkpoint: Checkpoint,
  spec: DecoderSpec,
  { ids, seqLen }: Pick<CalibrationSamples, 'ids' | 'seqLen'>,
  { spillFolder, threads, signal }: { spillFolder: string | null; threads: number; signal?: AbortSignal },
): Promise<NativeTensor> {
  using handles = new Handles()
  const parts = await loadEmbedding(checkpoint, spec, handles)
  return await run(addon().embedTokens(ids, seqLen, parts, spillFolder, threads), signal)
}

/**
 * The states start as the packed model will have them, from `tables`: the packed ones where the embeddings are quantized.
 * Where layers make up for drift, the original model's pass runs beside.
 */
export async function startCalibration(
  { original, tables }: { original: Checkpoint; tables: Checkpoint },
  model: DecoderSpec,
  samples: CalibrationSamples,
  { backend, recipe, threads, signal, spillFolder }: StepContext & { spillFolder: string },
  handles: Handles,
): Promise<CalibrationStates> {
  const { sequential, inputDriftWeight, stateDriftWeight } = recipe
  const { spec, linears } = model.blocks[0]!
  const tokens = samples.ids.length
  const widths = {
    attended: spec.heads * spec.headDim,
    inner: linears.find(({ role }) => role === 'down')!.cols,
  }
  const passes = !sequential ? 0 : inputDriftWeight + stateDriftWeight > 0 ? 2 : 1
  const bytes = 4 * tokens * (spec.hiddenSize + passes * (spec.hiddenSize + widths.attended + widths.inner))
  const spill = bytes > SPILL_BYTES ? spillFolder : null
  const embed = async (from: Checkpoint) =>
    handles.own(
      await backend.rows(
        await embedSamples(from, model, samples, { threads, signal, spillFolder: spill }),
        spill,
      ),
    )
  if (passes === 0) return { samples, states: await embed(tables), staged: null }
  const values = async (width: number) => handles.own(await backend.zeroRows(tokens, width, spill))
  const startPass = async (from: Checkpoint) => ({
    states: await embed(from),
    attended: await values(widths.attended),
    inner: await values(widths.inner),
  })
  const pass = await startPass(tables)
  return {
    samples,
    states: pass.states,
    staged: { pass, original: passes === 2 ? await startPass(original) : null },
  }
}
