/** Writes a checkpoint as an ordinary Hugging Face folder. */
import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { SlimError } from '../errors.js'
import { readFile, withAtomicFolder } from '../files.js'
import type { Checkpoint } from './checkpoint.js'
import { INDEX_FILE, SINGLE_FILE, shardIndex, shardName } from './huggingface.js'
import { safetensorsBytes } from './safetensors.js'
import { writeSafetensors } from './safetensors_writer.js'
import type { TensorInfo } from './tensor_info.js'

export interface SaveOptions {
  /** A tensor that is larger gets a shard of its own. */
  maxShardBytes?: number
  signal?: AbortSignal
}

/** The folder must be new or empty; nothing is visible under its name before everything is written. */
export async function saveCheckpoint(
  checkpoint: Checkpoint,
  outputFolder: string,
  { maxShardBytes = 4 * 2 ** 30, signal }: SaveOptions = {},
): Promise<void> {
  const config =
    checkpoint.format === 'huggingface'
      ? await readFile(path.join(checkpoint.path, 'config.json'))
      : `${JSON.stringify(checkpoint.config, null, 2)}\n`
  await withAtomicFolder(outputFolder, async (directory) => {
    await writeFile(path.join(directory, 'config.json'), config, { flush: true })
    for (const { name, bytes } of await checkpoint.auxiliary())
      await writeFile(path.join(directory, name), bytes, { flush: true })
    await writeWeights(checkpoint, directory, maxShardBytes, signal)
  })
}

async function writeWeights(
  checkpoint: Checkpoint,
  directory: string,
  maxShardBytes: number,
  signal?: AbortSignal,
): Promise<void> {
  const shards = splitIntoShards([...checkpoint.tensors.values()], maxShardBytes)
  const nameOf = (i: number) => (shards.length === 1 ? SINGLE_FILE : shardName(i, shards.length))
  for (const [i, infos] of shards.entries()) {
    const entries = infos.map(({ name, dtype, shape }) => ({
      name,
      dtype,
      shape,
      bytes: () => {
        if (signal?.aborted)
          throw new SlimError('SLIM_ABORTED', `Writing ${directory} was aborted`, { cause: signal.reason })
        return checkpoint.tensorBytes(name)
      },
    }))
    await writeSafetensors(path.join(directory, nameOf(i)), entries)
  }
  if (shards.length === 1) return
  const index = shardIndex(
    shards.map((infos, i) => ({
      shard: nameOf(i),
      tensors: infos.map((info) => info.name),
      tensorBytes: infos.reduce((sum, { dtype, shape }) => sum + safetensorsBytes(dtype, shape), 0),
    })),
  )
  await writeFile(path.join(directory, INDEX_FILE), `${JSON.stringify(index, null, 2)}\n`, { flush: true })
}

/** In the given order; at least one shard, even of an empty checkpoint. */
function splitIntoShards(infos: readonly TensorInfo[], maxShardBytes: number): TensorInfo[][] {
  const shards: TensorInfo[][] = [[]]
  let shardBytes = 0
  for (const info of infos) {
    const bytes = safetensorsBytes(info.dtype, info.shape)
    if (shardBytes > 0 && shardBytes + bytes > maxShardBytes) {
      shards.push([])
      shardBytes = 0
    }
    shards.at(-1)!.push(info)
    shardBytes += bytes
  }
  return shards
}
