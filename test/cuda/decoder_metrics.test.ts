import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { loadModel } from '../../lib/index.js'
import { packageRoot, run, type SamplerOptions } from '../../lib/native/addon.js'
import { cudaBackend } from '../../lib/quantize/backend.js'
import { hasEmulator, type LaunchReport, openEmulated } from '../support/cuda.js'
import { randomIds } from '../support/decoder.js'
import { demo } from '../support/demo.js'
import { sensitivities } from '../support/sensitivities.js'
import { makeSampler } from '../support/step.js'

/**
 * What a step of the demo model costs, kernel by kernel, in counts that do not depend on the machine: a prompt of 64
 * tokens, and one token after it, after which the likeliest or another one is drawn; and what slim's sensitivities cost.
 * `npm run metrics:cuda` writes the golden file anew.
 */
interface KernelCost {
  launches: number
  /** Of warps. */
  instructions: number
  /** Shared-memory wavefronts over the fewest that the accesses' widths allow; 1 where there is none. */
  wavefronts: number
  /** 32-byte sectors of global memory over the fewest. */
  sectors: number
}

/** By step and kernel. */
type Steps = Record<string, Record<string, KernelCost>>

const PROMPT_TOKENS = 64
const SENSITIVITIES = 'sensitivities of the fixture llama'
const golden = path.join(packageRoot(), 'test', 'cuda', 'decoder_metrics.json')
const skip = !hasEmulator()
const emulated = skip ? null : openEmulated()
afterAll(() => emulated?.close())

function byKernel(reports: readonly LaunchReport[]): Record<string, KernelCost> {
  const kernels = [...new Set(reports.map(({ kernel }) => kernel))].sort()
  const costOf = (kernel: string): KernelCost => {
    const own = reports.filter((report) => report.kernel === kernel)
    const sum = (of: (report: LaunchReport) => number) => own.reduce((total, report) => total + of(report), 0)
    const ratio = (some: number, fewest: number) => (fewest ? Math.round((some / fewest) * 1000) / 1000 : 1)
    return {
      launches: own.length,
      instructions: sum(({ instructions }) => instructions),
      wavefronts: ratio(
        sum((r) => r.sharedWavefronts),
        sum((r) => r.minimumWavefronts),
      ),
      sectors: ratio(
        sum((r) => r.sectors),
        sum((r) => r.minimumSectors),
      ),
    }
  }
  return Object.fromEntries(kernels.map((kernel) => [kernel, costOf(kernel)]))
}

/** Costs of the prompt, and of the steps after it. */
async function measuredSteps(): Promise<Steps> {
  await using model = await loadModel(demo, { device: 'cuda' })
  const { native } = model
  const cache = native.cache(PROMPT_TOKENS + 2)
  const stepOf = async (ids: Int32Array, options: SamplerOptions = {}) => {
    const sampler = makeSampler(options)
    sampler.accept(ids)
    emulated!.launches()
    await run(native.step([{ cache, ids, sampler }], 1))
    sampler.dispose()
    return byKernel(emulated!.launches())
  }
  const prompt = await stepOf(randomIds(PROMPT_TOKENS, model.spec.vocabSize, 1))
  const token = await stepOf(randomIds(1, model.spec.vocabSize, 2))
  const options = { temperature: 0.8, topK: 40, topP: 0.95, repetitionPenalty: 1.1 }
  const drawn = await stepOf(randomIds(1, model.spec.vocabSize, 3), options)
  cache.dispose()
  return { [`prompt of ${PROMPT_TOKENS} tokens`]: prompt, 'one token': token, 'one token, drawn': drawn }
}

/** Costs of slim's sensitivities of a small model. */
async function measuredSensitivities(): Promise<Steps> {
  const backend = cudaBackend(1)
  emulated!.launches()
  await sensitivities('llama', backend)
  backend.dispose()
  return { [SENSITIVITIES]: byKernel(emulated!.launches()) }
}

describe.skipIf(skip)('a step of the demo model, and slim’s sensitivities', () => {
  it('cost no more than they did', async () => {
    const found = { ...(await measuredSteps()), ...(await measuredSensitivities()) }
    if (process.env.SLIM_WRITE_METRICS) writeFileSync(golden, `${JSON.stringify(found, null, 2)}\n`)
    const expected: Steps = JSON.parse(readFileSync(golden, 'utf8'))
    for (const [step, kernels] of Object.entries(found)) {
      expect(Object.keys(kernels), step).toEqual(Object.keys(expected[step]!))
      for (const [kernel, cost] of Object.entries(kernels))
        for (const figure of ['launches', 'instructions', 'wavefronts', 'sectors'] as const)
          expect(cost[figure], `${step}, ${kernel}: ${figure}`).toBeLessThanOrEqual(
            expected[step]![kernel]![figure],
          )
    }
  })

  it('meets few bank conflicts and reads few sectors in vain', () => {
    const { [SENSITIVITIES]: _, ...steps }: Steps = JSON.parse(readFileSync(golden, 'utf8'))
    const all = Object.values(steps)
    for (const kernels of all)
      for (const [kernel, { wavefronts, sectors }] of Object.entries(kernels)) {
        // The sampler's histograms have their bins where the logits fall.
        expect(wavefronts, kernel).toBeLessThanOrEqual(kernel === 'sampleTokens' ? 1.05 : 1.02)
        expect(sectors, kernel).toBeLessThanOrEqual(1.05)
      }
  })
})
