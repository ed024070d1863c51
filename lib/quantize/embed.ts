/** The hidden states of calibration samples before the first block. */
import type { DecoderSpec } from '../architecture/spec.js'
import type { CalibrationSamples } from '../calibration/samples.js'
import type { Checkpoint } from '../checkpoint/checkpoint.js'
import { addon, type NativeTensor, run } from '../native/addon.js'
import { Handles } from '../native/handles.js'
import { loadMatrix } from '../runtime/weights.js'

/** States larger than this live in an unlinked file, so that a 7B model calibrates in little memory. */
const SPILL_BYTES = 2 ** 30

export async function embedSamples(
  checkpoint: Checkpoint,
  { embedding, positions, vocabSize: rows, hiddenSize: cols }: DecoderSpec,
  { ids, seqLen }: Pick<CalibrationSamples, 'ids' | 'seqLen'>,
  { spillFolder, threads, signal }: { spillFolder: string | null; threads: number; signal?: AbortSignal },
): Promise<NativeTensor> {
  using parts = new Handles()
  const table = parts.own(await loadMatrix(checkpoint, { name: embedding.name, rows, cols }))
  const spill = ids.length * cols * 4 > SPILL_BYTES ? spillFolder : null
  const job = addon().embedTokens(
    ids,
    seqLen,
    {
      embedding: table,
      embeddingScale: embedding.scale,
      positions: positions
        ? {
            weight: parts.own(await checkpoint.tensor(`${positions.name}.weight`)),
            offset: positions.offset,
          }
        : undefined,
    },
    spill,
    threads,
  )
  return await run(job, signal)
}
