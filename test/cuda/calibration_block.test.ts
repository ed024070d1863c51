/** Decoder blocks over calibration windows on the emulated device, against the CPU's. */
import { afterAll, describe, expect, it } from 'vitest'
import type { BlockSpec } from '../../lib/architecture/index.js'
import {
  addon,
  type NativeCudaStates,
  type NativeDecoderBlock,
  type NativeHessian,
  type NativeTensor,
  run,
  type StagedPass,
  type TapName,
} from '../../lib/native/addon.js'
import { type EmulatedDevice, hasEmulator, openEmulated } from '../support/cuda.js'
import { FAMILIES, loadFixture, randomTensor } from '../support/decoder.js'
import { randomParts, tensorsOf } from '../support/packed.js'
import { INNER, randomBlock, randomBlockOf, specs } from '../support/random_block.js'
import { referenceBlock } from '../support/reference_block.js'

const skip = !hasEmulator()
const emulated: EmulatedDevice | null = skip ? null : openEmulated()
afterAll(() => emulated?.close())

const TAPS = ['qkv', 'o', 'gateUp', 'down'] as const

/** Of what a block adds to its states, of a Hessian (Frobenius). Measured: up to 9e-7. */
const BOUND = 3e-6

const norm = (values: Float32Array) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0))
const minus = (a: Float32Array, b: Float32Array) => a.map((value, i) => value - b[i]!)

/** ‖given − expected‖ / ‖expected − from‖ (Frobenius). */
function error(given: NativeTensor, expected: NativeTensor, from?: NativeTensor): number {
  expect(given.shape).toEqual(expected.shape)
  const b = expected.toFloat32Array()
  const size = norm(from ? minus(b, from.toFloat32Array()) : b)
  return norm(minus(given.toFloat32Array(), b)) / size
}

type Sizes = Record<TapName, number>
const sizesOf = (spec: BlockSpec, inner: number): Sizes => ({
  qkv: spec.hiddenSize,
  o: spec.heads * spec.headDim,
  gateUp: spec.hiddenSize,
  down: inner,
})
function hessians<T extends NativeHessian>(sizes: Sizes, make: (size: number) => T): Record<TapName, T> {
  const entries = TAPS.map((tap) => [tap, make(sizes[tap])])
  return Object.fromEntries(entries) as Record<TapName, T>
}
const onCpu = (size: number) => new (addon().Hessian)(size, 3)
const onDevice = (size: number) => emulated!.device.hessian(size, 3)

const toDevice = (block: NativeDecoderBlock) => run(emulated!.device.calibrationBlock(block, 1))

describe.skipIf(skip).each(FAMILIES)('a block of %s on the emulated device', (family) => {
  it.each([
    [2, 21],
    [1, 65],
  ])('gives the output and the Hessians of the CPU (%i windows of %i tokens)', async (windows, length) => {
    const { blocks, spec } = await loadFixture(family)
    const { spec: blockSpec, linears } = spec.blocks[0]!
    const block = await toDevice(blocks[0]!)
    const inputs = () => randomTensor([windows * length, blockSpec.hiddenSize], 7)
    const sizes = sizesOf(blockSpec, linears.find(({ role }) => role === 'down')!.cols)
    const [expected, given] = [hessians(sizes, onCpu), hessians(sizes, onDevice)]
    const states = inputs()
    const deviceStates = await run(emulated!.device.states(states))
    const options = { sequenceLength: length }

    await run(blocks[0]!.forward(states, { ...options, taps: expected }, 1))
    await run(block.forward(deviceStates, { ...options, taps: given }, 1))
    expect(deviceStates.read().toBytes()).toEqual(inputs().toBytes())
    for (const tap of TAPS) {
      expect(given[tap].sequences).toBe(windows)
      expect(error(given[tap].matrix(), expected[tap].matrix()), tap).toBeLessThan(BOUND)
      expect(error(given[tap].samples(), expected[tap].samples()), tap).toBeLessThan(BOUND)
      given[tap].dispose()
    }
    await run(blocks[0]!.forward(states, options, 1))
    await run(block.forward(deviceStates, options, 1))
    expect(error(deviceStates.read(), states, inputs())).toBeLessThan(BOUND)
    deviceStates.dispose()
    block.dispose()
  })
})

/** Values of a pass over `states`. */
const passOf = (states: NativeTensor, { o, down }: Sizes): StagedPass => ({
  states,
  attended: addon().allocateTensor('F32', [states.shape[0]!, o]),
  inner: addon().allocateTensor('F32', [states.shape[0]!, down]),
})
async function devicePassOf(
  states: NativeTensor,
  { o, down }: Sizes,
  onHost = false,
): Promise<StagedPass<NativeCudaStates>> {
  const { device } = emulated!
  const tokens = states.shape[0]!
  return {
    states: await run(device.states(states, { onHost })),
    attended: await run(device.states({ tokens, width: o }, { onHost })),
    inner: await run(device.states({ tokens, width: down }, { onHost })),
  }
}
const partsOf = (pass: StagedPass<NativeCudaStates>) => [pass.states, pass.attended, pass.inner]

/** Σ (a − b)ᵀ x over tokens, plain float64: [width of a, width of x]. */
function drift(a: number[][], b: number[][], x: number[][]): Float32Array {
  const [m, n] = [a[0]!.length, x[0]!.length]
  const sums = new Float64Array(m * n)
  for (const [t, row] of x.entries())
    for (let i = 0; i < m; i++)
      for (let j = 0; j < n; j++) sums[i * n + j]! += (a[t]![i]! - b[t]![i]!) * row[j]!
  return Float32Array.from(sums)
}
const rowsOf = (values: Float32Array, width: number) =>
  Array.from({ length: values.length / width }, (_, t) =>
    Array.from(values.subarray(t * width, (t + 1) * width)),
  )

describe.skipIf(skip).each(Object.keys(specs))('the stages of a block %s on the emulated device', (name) => {
  const { spec, weights } = randomBlock(name)
  const sizes = sizesOf(spec, INNER)
  const [windows, length] = [2, 13]
  const shape = [windows * length, spec.hiddenSize]
  const inputs = randomTensor(shape, 99, 2)
  const noise = randomTensor(shape, 7).toFloat32Array()
  const originals = addon().tensorFrom(minus(inputs.toFloat32Array(), noise), 'F32', shape)

  /** X of a tap by plain loops, tokens in order. */
  const inputsOf = (states: NativeTensor, tap: TapName) =>
    Array.from({ length: windows }, (_, w) => {
      const size = length * spec.hiddenSize
      const window = states.toFloat32Array().subarray(w * size, (w + 1) * size)
      return referenceBlock(spec, weights, rowsOf(window, spec.hiddenSize)).taps[tap]
    }).flat()

  it('give the values and the Hessians of the CPU, and the drift', async () => {
    const block = new (addon().DecoderBlock)(spec, weights)
    const deviceBlock = await toDevice(block)
    const [pass, beside] = [
      randomTensor(shape, 99, 2),
      addon().tensorFrom(originals.toFloat32Array(), 'F32', shape),
    ].map((states) => passOf(states, sizes)) as [StagedPass, StagedPass]
    const [devicePass, deviceBeside] = [
      await devicePassOf(inputs, sizes),
      await devicePassOf(originals, sizes),
    ]
    const options = { sequenceLength: length, pass, original: { block, pass: beside } }
    const deviceOptions = {
      sequenceLength: length,
      pass: devicePass,
      original: { block: deviceBlock, pass: deviceBeside },
    }
    const [expected, given] = [hessians(sizes, onCpu), hessians(sizes, onDevice)]
    for (const tap of TAPS) {
      await run(block.stage(tap, { ...options, hessian: expected[tap] }, 1))
      await run(deviceBlock.stage(tap, { ...deviceOptions, hessian: given[tap] }, 1))
      expect(error(given[tap].matrix(), expected[tap].matrix()), tap).toBeLessThan(BOUND)

      const x = inputsOf(inputs, tap)
      const { inputs: inputDrift, states: stateDrift } = given[tap].drift()
      const expectDrift = (drifted: NativeTensor | null, a: number[][], b: number[][]) => {
        const sum = addon().tensorFrom(drift(a, b, x), 'F32', [a[0]!.length, sizes[tap]])
        expect(error(drifted!, sum), tap).toBeLessThan(BOUND)
      }
      expectDrift(inputDrift, inputsOf(originals, tap), x)
      const normed = tap === 'o' ? 'postAttention' : 'postMlp'
      if ((tap !== 'o' && tap !== 'down') || weights.norms[normed]) expect(stateDrift).toBeNull()
      else {
        const [a, b] = [beside, pass].map(({ states }) => rowsOf(states.toFloat32Array(), spec.hiddenSize))
        expectDrift(stateDrift, a!, b!)
      }
      given[tap].dispose()
    }
    await run(block.stage('end', options, 1))
    await run(deviceBlock.stage('end', deviceOptions, 1))
    for (const [mine, theirs, from] of [
      [devicePass, pass, inputs],
      [deviceBeside, beside, originals],
    ] as const) {
      expect(error(mine.states.read(), theirs.states, from)).toBeLessThan(BOUND)
      expect(error(mine.attended.read(), theirs.attended)).toBeLessThan(BOUND)
      expect(error(mine.inner.read(), theirs.inner)).toBeLessThan(BOUND)
      for (const states of partsOf(mine)) states.dispose()
    }
    deviceBlock.dispose()
  })
})

describe.skipIf(skip)('calibration windows on the emulated device', () => {
  // A sliding window of 5 tokens; softcapped scores; norms after.
  const { spec, weights } = randomBlock('like Gemma 2')
  const sizes = sizesOf(spec, INNER)
  const block = skip ? null! : new (addon().DecoderBlock)(spec, weights)
  const random = (tokens: number, seed = 5) => randomTensor([tokens, spec.hiddenSize], seed, 2)

  it.each([
    [3, 1, undefined],
    [4, 5, 128],
    [3, 65, 256],
    [2, 130, 64],
    [1, 130, 48],
  ])(
    '%i of %i tokens, tiles of %s: the bytes do not depend on where the states are',
    async (windows, length, tileTokens) => {
      const deviceBlock = await toDevice(block)
      const options = { sequenceLength: length, tileTokens }
      const tokens = windows * length
      const states = random(tokens)
      const expected = hessians(sizes, onCpu)
      await run(block.forward(states, { sequenceLength: length, taps: expected }, 1))
      await run(block.forward(states, { sequenceLength: length }, 1))
      const results: Uint8Array[][] = []
      for (const onHost of [false, true]) {
        const mine = await run(emulated!.device.states(random(tokens), { onHost }))
        expect([mine.onDevice, mine.tokens, mine.width]).toEqual([!onHost, tokens, spec.hiddenSize])
        const given = hessians(sizes, onDevice)
        await run(deviceBlock.forward(mine, { ...options, taps: given }, 1))
        await run(deviceBlock.forward(mine, options, 1))
        expect(error(mine.read(), states, random(tokens))).toBeLessThan(BOUND)
        for (const tap of TAPS) {
          expect(given[tap].sequences).toBe(windows)
          expect(error(given[tap].matrix(), expected[tap].matrix()), tap).toBeLessThan(BOUND)
        }
        const pass = await devicePassOf(random(tokens), sizes, onHost)
        const original = { block: deviceBlock, pass: await devicePassOf(random(tokens, 6), sizes, onHost) }
        const staged = hessians(sizes, onDevice)
        for (const tap of TAPS)
          await run(deviceBlock.stage(tap, { ...options, pass, original, hessian: staged[tap] }, 1))
        await run(deviceBlock.stage('end', { ...options, pass, original }, 1))
        expect(pass.states.read().toBytes()).toEqual(mine.read().toBytes()) // a resumed run runs blocks whole
        results.push(
          [mine, ...partsOf(pass), ...partsOf(original.pass)].map((values) => values.read().toBytes()),
          TAPS.map((tap) => given[tap].matrix().toBytes()),
          TAPS.map((tap) => staged[tap].matrix().toBytes()),
        )
        for (const values of [mine, ...partsOf(pass), ...partsOf(original.pass)]) values.dispose()
        for (const tap of TAPS) for (const hessian of [given[tap], staged[tap]]) hessian.dispose()
      }
      expect(results.slice(3)).toEqual(results.slice(0, 3))
      deviceBlock.dispose()
    },
  )

  it('gives the drift of pieces of one window', async () => {
    const deviceBlock = await toDevice(block)
    const sums: NativeTensor[] = []
    for (const tileTokens of [undefined, 32]) {
      const pass = await devicePassOf(random(75), sizes)
      const original = { block: deviceBlock, pass: await devicePassOf(random(75, 6), sizes) }
      for (const tap of TAPS) {
        const hessian = onDevice(sizes[tap])
        const options = { sequenceLength: 75, tileTokens, pass, original, hessian }
        await run(deviceBlock.stage(tap, options, 1))
        sums.push(hessian.drift().inputs!)
        expect(hessian.sequences).toBe(1)
        hessian.dispose()
      }
    }
    for (const [i, whole] of sums.slice(0, 4).entries())
      expect(error(sums[i + 4]!, whole)).toBeLessThan(BOUND)
  })

  // More heads to a head of keys than a tile of queries has rows; shared memory under what a launch has unasked,
  // above that with the kernel's static variables, and above it alone.
  it.each([144, 145, 160, 184, 253])('attends with many heads of %i', async (headDim) => {
    const heads = randomBlockOf({ spec: { heads: 10, kvHeads: 1, headDim } })
    const wide = new (addon().DecoderBlock)(heads.spec, heads.weights)
    const deviceBlock = await toDevice(wide)
    const [states, mine] = [random(18), await run(emulated!.device.states(random(18)))]
    await run(wide.forward(states, { sequenceLength: 9 }, 1))
    await run(deviceBlock.forward(mine, { sequenceLength: 9 }, 1))
    expect(error(mine.read(), states, random(18))).toBeLessThan(BOUND)
    mine.dispose()
    deviceBlock.dispose()
  })

  it('takes float16 and bfloat16 weights as they are', async () => {
    for (const dtype of ['F16', 'BF16'] as const) {
      const { blocks, spec: model } = await loadFixture('qwen2', dtype)
      const deviceBlock = await toDevice(blocks[0]!)
      const inputs = () => randomTensor([11, model.blocks[0]!.spec.hiddenSize], 3)
      const [states, mine] = [inputs(), await run(emulated!.device.states(inputs()))]
      await run(blocks[0]!.forward(states, { sequenceLength: 11 }, 1))
      await run(deviceBlock.forward(mine, { sequenceLength: 11 }, 1))
      expect(error(mine.read(), states, inputs())).toBeLessThan(BOUND)
      mine.dispose()
      deviceBlock.dispose()
    }
  })

  it('takes packed layers beside dense ones', async () => {
    const bits = Uint8Array.of(4, 3)
    const parts = await randomParts(spec.heads * spec.headDim, spec.hiddenSize, 16, bits)
    const q = new (addon().PackedMatrix)(await tensorsOf(parts))
    const mixed = new (addon().DecoderBlock)(spec, {
      ...weights,
      linears: { ...weights.linears, q: { weight: q } },
    })
    const deviceBlock = await toDevice(mixed)
    const [states, mine] = [random(42), await run(emulated!.device.states(random(42)))]
    await run(mixed.forward(states, { sequenceLength: 21 }, 1))
    await run(deviceBlock.forward(mine, { sequenceLength: 21 }, 1))
    expect(error(mine.read(), states, random(42))).toBeLessThan(BOUND)
    mine.dispose()
    deviceBlock.dispose()
  })

  it('brings layers to the device when a stage needs them, and gives all memory back', async () => {
    const { device } = emulated!
    const before = device.usedBytes
    const deviceBlock = await toDevice(block)
    const pass = await devicePassOf(random(6), sizes)
    const used = [device.usedBytes]
    for (const stage of [...TAPS, 'end'] as const) {
      await run(deviceBlock.stage(stage, { sequenceLength: 6, pass }, 1))
      used.push(device.usedBytes)
    }
    expect(used[0]).toBeGreaterThan(before)
    expect(used[1]).toBe(used[0])
    for (let i = 2; i < used.length; i++) expect(used[i]).toBeGreaterThan(used[i - 1]!)
    for (const states of partsOf(pass)) states.dispose()
    deviceBlock.dispose()
    expect(device.usedBytes).toBeLessThanOrEqual(before)
  })

  it('copies states, wherever they and the copy lie', async () => {
    const { device } = emulated!
    const before = device.usedBytes
    for (const from of [false, true])
      for (const to of [false, true]) {
        const source = await run(device.states(random(7), { onHost: from }))
        const copy = await run(device.states(source, { onHost: to }))
        expect([source.onDevice, copy.onDevice]).toEqual([!from, !to])
        source.dispose()
        expect(copy.read().toBytes()).toEqual(random(7).toBytes())
        copy.dispose()
      }
    expect(device.usedBytes).toBe(before)
  })

  it('stops where it is cancelled', async () => {
    const deviceBlock = await toDevice(block)
    const mine = await run(emulated!.device.states(random(260)))
    const job = deviceBlock.forward(mine, { sequenceLength: 130, tileTokens: 64 }, 1)
    job.cancel()
    await expect(run(job)).rejects.toMatchObject({ code: 'SLIM_ABORTED' })
    mine.dispose()
    deviceBlock.dispose()
  })

  it('refuses what does not fit, by its name', async () => {
    const { device } = emulated!
    const deviceBlock = await toDevice(block)
    const { hiddenSize } = spec
    const mine = await run(device.states(random(12)))
    const narrow = await run(device.states({ tokens: 12, width: hiddenSize - 1 }))
    const refused = (parameter: string, attempt: () => unknown) =>
      expect(attempt, parameter).toThrow(
        expect.objectContaining({ code: 'SLIM_INVALID_ARGUMENT', parameter }),
      )
    const options = { sequenceLength: 6 }
    refused('source', () => device.states(addon().allocateTensor('F16', [2, 3])))
    refused('source.width', () => device.states({ tokens: 2, width: 0 }))
    refused('block', () => device.calibrationBlock({} as NativeDecoderBlock, 1))
    refused('states', () => deviceBlock.forward(narrow, options, 1))
    refused('sequenceLength', () => deviceBlock.forward(mine, { sequenceLength: 0 }, 1))
    await expect(run(deviceBlock.forward(mine, { sequenceLength: 5 }, 1))).rejects.toMatchObject({
      parameter: 'sequenceLength',
    })
    const hostTap = new (addon().Hessian)(hiddenSize, 0)
    refused('taps.qkv', () => deviceBlock.forward(mine, { ...options, taps: { qkv: hostTap } }, 1))
    refused('taps.down', () => deviceBlock.forward(mine, { ...options, taps: { down: onDevice(3) } }, 1))
    const pass = await devicePassOf(random(12), sizes)
    const stage = (name: TapName | 'end', more: object) => () =>
      deviceBlock.stage(name, { ...options, pass, ...more }, 1)
    refused('stage', () => deviceBlock.stage('q' as TapName, { ...options, pass }, 1))
    refused('pass.inner', stage('o', { pass: { ...pass, inner: narrow } }))
    refused('hessian', stage('o', { hessian: onDevice(3) }))
    refused('hessian', stage('end', { hessian: onDevice(hiddenSize) }))
    refused('original.block', stage('o', { original: { block, pass } }))
    refused('original.pass', stage('o', { original: { block: deviceBlock, pass } }))
    for (const states of [mine, narrow, ...partsOf(pass)]) states.dispose()
    expect(() => mine.read()).toThrow(expect.objectContaining({ code: 'SLIM_DISPOSED' }))
    deviceBlock.dispose()
    expect(() => deviceBlock.forward(mine, options, 1)).toThrow(
      expect.objectContaining({ code: 'SLIM_DISPOSED' }),
    )
  })
})
