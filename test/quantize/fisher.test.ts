import path from 'node:path'
import { describe, expect, it } from 'vitest'
import type { CalibrationSamples } from '../../lib/calibration/samples.js'
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js'
import { addon, type NativeTensor, run, type TapName } from '../../lib/native/addon.js'
import { type FisherOptions, fisherInformation } from '../../lib/quantize/fisher.js'
import { checkpointSpec, disposeWeights, loadBlockWeights } from '../../lib/runtime/weights.js'
import { FAMILIES, FIXTURES, largestDifference, randomIds, readJson } from '../support/decoder.js'
import { goldenGradients } from '../support/gradients.js'

const windowsOf = (ids: Int32Array, seqLen: number): CalibrationSamples => ({
  ids,
  seqLen,
  samples: ids.length / seqLen,
  offsets: [],
  hash: '',
})
const largest = (values: ArrayLike<number>) => largestDifference(values, new Float64Array(values.length))

async function fisherOf(family: string, samples: CalibrationSamples, options: FisherOptions = {}) {
  const checkpoint = await openCheckpoint(path.join(FIXTURES, family))
  try {
    return await fisherInformation(checkpoint, checkpointSpec(checkpoint), samples, options)
  } finally {
    checkpoint.dispose()
  }
}

describe.each(FAMILIES)('the Fisher information of %s', (family) => {
  it('is that of PyTorch for the labels of the text', async () => {
    const golden = goldenGradients(family)
    const ids = Int32Array.from(readJson<{ input_ids: number[] }>(family, 'golden.json').input_ids)
    const { fisher, nll, count } = await fisherOf(family, windowsOf(ids, ids.length), { labels: 'text' })
    const expected = Object.keys(golden).filter((name) => name.startsWith('fisher.'))
    expect([...fisher.keys()].map((name) => `fisher.${name}`).sort()).toEqual(expected.sort())
    for (const [name, rows] of fisher) {
      const mean = golden[`fisher.${name}`]!.map((sum) => sum / ids.length)
      expect(largestDifference(rows, mean) / largest(mean), name).toBeLessThan(1e-5)
    }
    expect(count).toBe(ids.length - 1)
    expect(nll / count).toBeCloseTo(readJson<{ nll: number }>(family, 'golden.json').nll, 4)
  })
})

describe('fisherInformation', () => {
  const samples = windowsOf(randomIds(5 * 21, 256, 3), 21)

  it('is the same bits for every number of threads, and another for other labels', async () => {
    const one = await fisherOf('gemma2', samples, { threads: 1 })
    expect(await fisherOf('gemma2', samples, { threads: 2 })).toEqual(one)
    expect((await fisherOf('gemma2', samples, { seed: 1 })).fisher).not.toEqual(one.fisher)
  })

  it('hands over every block once, from last to first', async () => {
    const seen: number[] = []
    const taps = new Map<string, Float32Array>()
    const powers: Partial<Record<TapName, Float32Array>>[] = []
    const { fisher } = await fisherOf('llama', samples, {
      hessians: { keepEvery: 0 },
      onBlock: async (block, weights, gathered) => {
        seen.push(block.index)
        powers.push(gathered.tokenPowers)
        expect((weights.linears.q!.weight as NativeTensor).shape).toEqual([64, 64])
        expect([...gathered.fisher.keys()]).toEqual(block.linears.map((linear) => linear.name))
        for (const [tap, hessian] of Object.entries(gathered.hessians)) {
          expect(hessian.sequences).toBe(5)
          taps.set(`${block.index}.${tap}`, hessian.matrix().toFloat32Array())
        }
        await Promise.resolve()
      },
    })
    expect(seen).toEqual([1, 0])
    expect(taps.size).toBe(8)
    // The mean over q's, k's and v's outputs, 64 + 32 + 32 of them, by token and by output.
    const rows = ['q', 'k', 'v'].flatMap((role) => [...fisher.get(`model.layers.1.self_attn.${role}_proj`)!])
    const mean = (values: ArrayLike<number>) => Array.from(values).reduce((a, b) => a + b, 0) / values.length
    expect(mean(powers[0]!.qkv!) / mean(rows)).toBeCloseTo(1, 5)

    // The first block's Hessian of q, k and v, from the forward pass.
    const checkpoint = await openCheckpoint(path.join(FIXTURES, 'llama'))
    const spec = checkpointSpec(checkpoint)
    const weights = await loadBlockWeights(checkpoint, spec.blocks[0]!)
    const embedding = await checkpoint.tensor(`${spec.embedding.name}.weight`)
    const states = await run(addon().embedTokens(samples.ids, 21, { embedding, embeddingScale: 1 }, null, 1))
    const qkv = new (addon().Hessian)(64, 0)
    const block = new (addon().DecoderBlock)(spec.blocks[0]!.spec, weights)
    await run(block.forward(states, { sequenceLength: 21, taps: { qkv } }, 1))
    const expected = qkv.matrix().toFloat32Array()
    expect(largestDifference(taps.get('0.qkv')!, expected) / largest(expected)).toBeLessThan(1e-5)
    disposeWeights(weights)
    checkpoint.dispose()
  })

  it('draws labels window by window, and weighs no token after the last label', async () => {
    let powers: Float32Array | undefined
    await fisherOf('llama', samples, {
      onBlock: (block, _, { tokenPowers }) => {
        if (block.index === 1) powers = tokenPowers.down
      },
    })
    expect(powers!.length).toBe(samples.ids.length)
    powers!.forEach((power, t) => {
      expect(power > 0, `token ${t}`).toBe((t + 1) % 21 !== 0)
    })
  })

  it('tells its progress and loads blocks as it is told', async () => {
    const steps: number[] = []
    const loads: number[] = []
    const checkpoint = await openCheckpoint(path.join(FIXTURES, 'llama'))
    const options: FisherOptions = {
      onProgress: ({ done, of }) => steps.push(done / of),
      loadBlock: (block) => {
        loads.push(block.index)
        return loadBlockWeights(checkpoint, block)
      },
    }
    await fisherInformation(checkpoint, checkpointSpec(checkpoint), samples, options)
    checkpoint.dispose()
    expect(steps).toEqual([0, 0.25, 0.5, 0.75])
    expect(loads).toEqual([0, 1, 1, 0])
  })

  it('ends when it is aborted, and passes on what onBlock throws', async () => {
    const controller = new AbortController()
    const onProgress = ({ done, of }: { done: number; of: number }) => done === of / 2 && controller.abort()
    await expect(fisherOf('llama', samples, { onProgress, signal: controller.signal })).rejects.toMatchObject(
      {
        code: 'SLIM_ABORTED',
      },
    )
    const failing = fisherOf('llama', samples, {
      onBlock: () => {
        throw new Error('of its own')
      },
    })
    await expect(failing).rejects.toThrow('of its own')
  })
})
