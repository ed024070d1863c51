/** Method slim on the demo model: the stored budget, what may be given beside it, and interruptions. */
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import {
  type QuantizeOptions,
  type QuantizeProgress,
  type QuantizeReport,
  quantize,
} from '../../lib/index.js'
import { addon, type NativeHessian } from '../../lib/native/addon.js'
import { contentHashes, demo, rejection, small } from '../support/demo.js'
import { expectSlimError } from '../support/expect_error.js'
import { temporaryFolder } from '../support/temporary.js'

const folder = temporaryFolder()
const at = (name: string) => path.join(folder, name)

const slim = (name: string, options: Partial<QuantizeOptions> = {}) =>
  small(at(name), { method: 'slim', ...options })
const budget = (name: string, bitsPerWeight: number, options: Partial<QuantizeOptions> = {}) =>
  slim(name, { bits: undefined, bitsPerWeight, ...options })

const widthsOf = ({ layers }: QuantizeReport) => new Set(layers.flatMap(({ groupBits }) => groupBits))
const layerOf = ({ layers }: QuantizeReport, name: string) => layers.find((layer) => layer.name === name)

/** Stored bits of layers with groups of 32 at `bits`, all rows multiples of 8: code, scale, zero point, group_bits. */
const uniformBits = (layers: QuantizeReport['layers'], bits: number) =>
  layers.reduce((sum, { rows, cols }) => sum + rows * cols * bits + (cols / 32) * (rows * (16 + bits) + 8), 0)

describe('slim', () => {
  let twoBits: QuantizeReport

  it('stores what uniform groups of `bits` would, in widths that the model chooses', async () => {
    const steps: QuantizeProgress[] = []
    twoBits = await quantize(demo, slim('two', { onProgress: (step) => steps.push(step) }))
    const weights = twoBits.layers.reduce((sum, { rows, cols }) => sum + rows * cols, 0)
    const target = uniformBits(twoBits.layers, 2) / weights
    expect(twoBits.storedBitsPerWeight).toBeLessThanOrEqual(target)
    expect(twoBits.storedBitsPerWeight).toBeGreaterThan(target * 0.995)
    expect(widthsOf(twoBits).size).toBeGreaterThan(2)
    expect(twoBits.settings).toMatchObject({ bits: 2, bitsPerWeight: null })
    // Once for the whole model, before the first block.
    const first = steps.findIndex(({ phase }) => phase !== 'sensitivity')
    expect(first).toBeGreaterThan(0)
    expect(steps.slice(first).map(({ phase }) => phase)).not.toContain('sensitivity')
    expect(twoBits.seconds.sensitivity).toBeGreaterThan(0)
  })

  it('gives the same bytes with one thread, and when run again', async () => {
    await quantize(demo, slim('one-thread', { threads: 1 }))
    expect(contentHashes(at('one-thread'))).toEqual(contentHashes(at('two')))
    await quantize(demo, slim('again'))
    expect(contentHashes(at('again'))).toEqual(contentHashes(at('two')))
  })

  it('loses less than gptq in as many bits', async () => {
    const gptq = await quantize(demo, small(at('gptq'), { method: 'gptq' }))
    const error = ({ layers }: QuantizeReport) => layers.reduce((sum, layer) => sum + layer.relativeError!, 0)
    expect(gptq.storedBitsPerWeight).toBeGreaterThanOrEqual(twoBits.storedBitsPerWeight)
    expect(error(twoBits)).toBeLessThan(0.9 * error(gptq))
  })

  it.each([2.6, 3.1])('keeps a budget of %f stored bits a weight', async (bitsPerWeight) => {
    const report = await quantize(demo, budget(`budget-${bitsPerWeight}`, bitsPerWeight))
    expect(report.storedBitsPerWeight).toBeLessThanOrEqual(bitsPerWeight)
    expect(report.storedBitsPerWeight).toBeGreaterThan(bitsPerWeight * 0.995)
    expect(report.settings).toMatchObject({ bitsPerWeight })
    const stored = report.layers.reduce((sum, { storedBytes }) => sum + 8 * storedBytes, 0)
    const weights = report.layers.reduce((sum, { rows, cols }) => sum + rows * cols, 0)
    expect(report.storedBitsPerWeight).toBeCloseTo(stored / weights, 10)
  })

  it.each([1.2, 9.5])('says what range can be met where %f cannot', async (bitsPerWeight) => {
    const phases: string[] = []
    const onProgress = ({ phase }: QuantizeProgress) => phases.push(phase)
    const attempt = () => quantize(demo, budget('never', bitsPerWeight, { onProgress }))
    // One bit with scale and mean, 2 · 16/32; eight with a scale and a zero point, 24/32; and group_bits.
    const error = await expectSlimError(attempt, 'SLIM_BUDGET', { parameter: 'bitsPerWeight' })
    const [least, most] = error.expected!.split(' to ').map(Number) as [number, number]
    expect(least).toBeGreaterThan(2)
    expect(least).toBeLessThan(2.002)
    expect(most).toBeGreaterThan(8.75)
    expect(most).toBeLessThan(8.752)
    expect(error.message).toContain(error.expected)
    expect(phases).toEqual([]) // not after a long pass over the model
    expect(existsSync(at('never'))).toBe(false)
  })

  it.each([{ bits: 2 }, { bitMap: {} }, { allocation: 'uniform' as const }, { method: 'gptq' as const }])(
    'refuses a budget beside %o',
    async (options) => {
      await expectSlimError(() => quantize(demo, budget('never', 2.6, options)), 'SLIM_INVALID_ARGUMENT', {
        parameter: 'bitsPerWeight',
      })
      expect(existsSync(at('never'))).toBe(false)
    },
  )

  it('keeps the budget beside overrides of bits, group size, and layers left out', async () => {
    const overrides = {
      '**.v_proj': { bits: 4 },
      '**.down_proj': { groupSize: 128 },
      'model.layers.2.**': { skip: true },
    }
    const report = await quantize(demo, budget('overrides', 2.6, { overrides }))
    expect(layerOf(report, 'model.layers.2.mlp.up_proj')).toBeUndefined()
    expect(layerOf(report, 'model.layers.0.mlp.down_proj')).toMatchObject({ groupSize: 128 })
    const isOwn = ({ name }: { name: string }) => name.endsWith('.v_proj')
    const stored = (layers: QuantizeReport['layers']) =>
      layers.reduce((sum, { storedBytes }) => sum + 8 * storedBytes, 0)
    // The layers with bits of their own share their own budget, what uniform groups of 4 bits store.
    const [own, others] = [report.layers.filter(isOwn), report.layers.filter((layer) => !isOwn(layer))]
    expect(own).toHaveLength(5)
    expect(stored(own)).toBeLessThanOrEqual(uniformBits(own, 4))
    expect(stored(own)).toBeGreaterThan(0.98 * uniformBits(own, 4))
    const target = 2.6 * others.reduce((sum, { rows, cols }) => sum + rows * cols, 0)
    expect(stored(others)).toBeLessThanOrEqual(target)
    expect(stored(others)).toBeGreaterThan(0.995 * target)
  })

  it('uses a given bit map as it is, without looking at sensitivities', async () => {
    const steps: QuantizeProgress[] = []
    const bitMap = path.join(at('two'), 'slimllm.json')
    const onProgress = (step: QuantizeProgress) => steps.push(step)
    const report = await quantize(demo, slim('map', { bitMap, onProgress }))
    expect(steps.map(({ phase }) => phase)).not.toContain('sensitivity')
    expect(report.layers.map(({ groupBits }) => groupBits)).toEqual(
      twoBits.layers.map(({ groupBits }) => groupBits),
    )
    // The same widths, so the same weights.
    const { 'slimllm.json': _a, ...weights } = contentHashes(at('two'))
    const { 'slimllm.json': _b, ...mapped } = contentHashes(at('map'))
    expect(mapped).toEqual(weights)
    const others = Object.fromEntries(
      report.layers.map(({ name, groupBits }) => [name, groupBits.map((_, g) => 1 + (g % 4))]),
    )
    const mixed = await quantize(demo, slim('map-mixed', { bitMap: others }))
    for (const { name, groupBits } of mixed.layers) expect(groupBits).toEqual(others[name])
  })

  it('does its parts alone: uniform widths, and the scales of other methods', async () => {
    const uniform = await quantize(demo, slim('uniform', { allocation: 'uniform' }))
    expect(widthsOf(uniform)).toEqual(new Set([2]))
    const scales = await quantize(demo, slim('minmax', { quantizer: 'minmax' }))
    expect(scales.storedBitsPerWeight).toBeLessThanOrEqual(uniform.storedBitsPerWeight)
  })
})

describe('an interrupted run of slim', () => {
  /** Aborts at the first step that `when` is true of; counts the Hessians that were made and let go of. */
  async function abortedAt(name: string, when: (step: QuantizeProgress, index: number) => boolean) {
    const native = addon()
    const { Hessian } = native
    let [made, disposed, index] = [0, 0, 0]
    native.Hessian = class extends (Hessian as new (size: number, keepEvery: number) => NativeHessian) {
      constructor(size: number, keepEvery: number) {
        super(size, keepEvery)
        made++
      }
      override dispose() {
        super.dispose()
        disposed++
      }
    } as typeof Hessian
    try {
      const controller = new AbortController()
      const onProgress = (step: QuantizeProgress) => when(step, index++) && controller.abort()
      const error = await rejection(quantize(demo, slim(name, { signal: controller.signal, onProgress })))
      expect(error).toMatchObject({ code: 'SLIM_ABORTED' })
    } finally {
      native.Hessian = Hessian
    }
    expect(disposed).toBe(made)
    expect(existsSync(at(name))).toBe(false)
  }
  const journal = (name: string) =>
    readFileSync(path.join(at(`${name}.partial`), 'journal.jsonl'), 'utf8')
      .trim()
      .split('\n').length - 1

  // Six blocks forward, the head, six back.
  it.each([0, 3, 6, 9, 11])('begins anew after an abort in step %i of the sensitivity pass', async (step) => {
    const name = `sensitivity-${step}`
    await abortedAt(name, ({ phase }, index) => phase === 'sensitivity' && index === step)
    expect(journal(name)).toBe(0)
    // Nothing was done that other settings could lose.
    const phases: string[] = []
    await quantize(demo, slim(name, { onProgress: ({ phase }) => phases.push(phase) }))
    expect(phases[0]).toBe('sensitivity')
    expect(contentHashes(at(name))).toEqual(contentHashes(at('two')))
  })

  it.each([
    ['calibrate', 0],
    ['quantize', 1],
    ['propagate', 3],
    ['calibrate', 5],
  ] as const)('goes on to the same bytes after an abort in phase %s of block %i', async (phase, block) => {
    const name = `${phase}-${block}`
    await abortedAt(name, (step) => step.phase === phase && step.block === block)
    // The tables' shard holds the allocation; then a line a block.
    expect(journal(name)).toBe(1 + block)
    const steps: QuantizeProgress[] = []
    await quantize(demo, slim(name, { onProgress: (step) => steps.push(step) }))
    expect(steps.map((step) => step.phase)).not.toContain('sensitivity')
    if (block > 0) expect(steps[0]).toMatchObject({ phase: 'resume', block, blocks: 6 })
    expect(steps.find((step) => step.phase === 'calibrate')!.block).toBe(block)
    expect(contentHashes(at(name))).toEqual(contentHashes(at('two')))
  })

  it('does not go on with another budget', async () => {
    await abortedAt('other', (step) => step.phase === 'calibrate' && step.block === 1)
    const mismatch = { code: 'SLIM_OUTPUT_MISMATCH' }
    expect(await rejection(quantize(demo, budget('other', 2.6)))).toMatchObject(mismatch)
    expect(await rejection(quantize(demo, slim('other', { bits: 3 })))).toMatchObject(mismatch)
    await quantize(demo, slim('other'))
    expect(contentHashes(at('other'))).toEqual(contentHashes(at('two')))
  })
})
