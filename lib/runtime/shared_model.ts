/** One copy of a model's weights in the process: threads that load the same files in the same way share it. */
import { realpath, stat } from 'node:fs/promises'
import { setTimeout } from 'node:timers/promises'
import type { Checkpoint } from '../checkpoint/checkpoint.js'
import { SlimError } from '../errors.js'
import { addon, type NativeDecoderModel } from '../native/addon.js'

/** How often a thread looks whether another one has loaded the model. */
const POLL_MS = 5

/** What the native model depends on: the configuration, the files of the weights as they are now, and the options. */
export async function modelKey(checkpoint: Checkpoint, options: Record<string, unknown>): Promise<string> {
  const names = [...new Set([...checkpoint.tensors.values()].map(({ file }) => file))].sort()
  const files = await Promise.all(
    names.map(async (name) => {
      const { size, mtimeMs, ino } = await stat(name)
      return [await realpath(name), size, mtimeMs, ino]
    }),
  )
  return JSON.stringify([files, checkpoint.config, options])
}

/** The model of the key; `load` makes it where no thread has it. */
export async function shareModel(
  key: string,
  load: () => Promise<NativeDecoderModel>,
  signal?: AbortSignal,
): Promise<NativeDecoderModel> {
  for (;;) {
    if (signal?.aborted) throw new SlimError('SLIM_ABORTED', 'Loading was aborted', { cause: signal.reason })
    const found = addon().sharedModel(key)
    if (found && !('publish' in found)) return found
    if (found) {
      try {
        const model = await load()
        found.publish(model)
        return model
      } finally {
        found.dispose()
      }
    }
    await setTimeout(POLL_MS)
  }
}
