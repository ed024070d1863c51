/** Slim's sensitivities through whole models on the emulated driver, beside the CPU's. */
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js'
import { type NativeTensor, run } from '../../lib/native/addon.js'
import { type Backend, cpuBackend, cudaBackend } from '../../lib/quantize/backend.js'
import { fisherInformation } from '../../lib/quantize/fisher.js'
import { checkpointSpec } from '../../lib/runtime/weights.js'
import { hasEmulator, onGpu, openEmulated } from '../support/cuda.js'
import { FAMILIES, FIXTURES, largestDifference, randomIds } from '../support/decoder.js'

const skip = !hasEmulator()
const emulated = skip ? null : openEmulated()
const backend = skip ? null : cudaBackend(1)
afterAll(() => {
  backend?.dispose()
  emulated?.close()
})

const [windows, seqLen] = [2, 13]
const largest = (values: ArrayLike<number>) => largestDifference(values, new Float64Array(values.length))

/** The Fisher information of every layer's outputs, the loss, and the errors by width of two layers a block. */
async function sensitivities(family: string, backend: Backend) {
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

describe.skipIf(skip).each(FAMILIES)('the sensitivities of %s on the emulated device', (family) => {
  it('are those of the CPU', async () => {
    const expected = await sensitivities(family, cpuBackend(1))
    emulated!.launches()
    const found = await sensitivities(family, backend!)
    const kernels = new Set(emulated!.launches().map(({ kernel }) => kernel))
    for (const kernel of onGpu ? [] : ['differentiateLikelihoods', 'softmaxBackward', 'groupShares'])
      expect(kernels).toContain(kernel)
    expect(found.count).toBe(expected.count)
    const worst = { nll: Math.abs(found.nll / expected.nll - 1), fisher: 0, errors: 0 }
    for (const [name, rows] of expected.fisher)
      worst.fisher = Math.max(worst.fisher, largestDifference(found.fisher.get(name)!, rows) / largest(rows))
    for (const [name, errors] of expected.errors)
      worst.errors = Math.max(
        worst.errors,
        largestDifference(found.errors.get(name)!, errors) / largest(errors),
      )
    expect(worst.nll).toBeLessThan(1e-6)
    expect(worst.fisher).toBeLessThan(1e-5)
    expect(worst.errors).toBeLessThan(0.02) // GPTQ may round a weight to the other side
  })
})
