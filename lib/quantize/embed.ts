/** The hidden states of calibration samples before the first block. */
import type { DecoderSpec } from '../architecture/spec.js'
import type { CalibrationSamples } from '../calibration/samples.js'
import type { Checkpoint } from '../checkpoint/checkpoint.js'
import { addon, type NativeTensor, run } from '../native/addon.js'
import { Handles } from '../native/handles.js'
import { loadEmbedding } from '../runtime/weights.js'

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
