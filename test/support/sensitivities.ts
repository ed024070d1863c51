/** Slim's sensitivities of a fixture's model, on a backend. */
import path from 'node:path'
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js'
import { type NativeTensor, run } from '../../lib/native/addon.js'
import type { Backend } from '../../lib/quantize/backend.js'
import { fisherInformation } from '../../lib/quantize/fisher.js'
import { checkpointSpec } from '../../lib/runtime/weights.js'
import { FIXTURES, randomIds } from './decoder.js'

const [windows, seqLen] = [2, 13]

/** The Fisher information of every layer's outputs, the loss, and the errors by width of two layers a block. */
export async function sensitivities(family: string, backend: Backend) {
  const ids = randomIds(windows * seqLen, 256, 3)
  const samples = { ids, seqLen, samples: windows, offsets: [], hash: '' }
  const checkpoint = await openCheckpoint(path.join(FIXTURES, family))
  try {
    const errors = new Map<string, Float64Array>()
    const options = { groupSize: 32, quantizer: 'minmax', mostBits: 4 } as const
    const found = await fisherInformation(checkpoint, checkpointSpec(checkpoint), samples, {
      backend,
      seed: 7,
      hessians: { keepEvery: 0 },
      onBlock: async (block, weights, { fisher, hessians }) => {
        for (const { role, name, tap } of block.linears.filter(({ role }) => /^(o|down)$/.test(role))) {
          const weight = weights.linears[role]!.weight as NativeTensor
          const job = backend.groupErrors(weight, hessians[tap]!, fisher.get(name)!, options, 1)
          errors.set(name, await run(job))
        }
      },
    })
    return { ...found, errors }
  } finally {
    checkpoint.dispose()
  }
}
