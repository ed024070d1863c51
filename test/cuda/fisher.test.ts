/** Slim's sensitivities through whole models on the emulated driver, beside the CPU's. */
import { afterAll, describe, expect, it } from 'vitest'
import { cpuBackend, cudaBackend } from '../../lib/quantize/backend.js'
import { hasEmulator, onGpu, openEmulated } from '../support/cuda.js'
import { FAMILIES, largestDifference } from '../support/decoder.js'
import { sensitivities } from '../support/sensitivities.js'

const skip = !hasEmulator()
const emulated = skip ? null : openEmulated()
const backend = skip ? null : cudaBackend(1)
afterAll(() => {
  backend?.dispose()
  emulated?.close()
})

const largest = (values: ArrayLike<number>) => largestDifference(values, new Float64Array(values.length))

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
