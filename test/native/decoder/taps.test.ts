/** What a block's taps gather beside the inputs: their drift from the original model's. */
import { describe, expect, it } from 'vitest'
import type { BlockSpec } from '../../../lib/architecture/index.js'
import {
  addon,
  type BlockWeights,
  type NativeHessian,
  type NativeTensor,
  run,
  type TapName,
} from '../../../lib/native/addon.js'
import { largestDifference, randomFloats, randomTensor } from '../../support/decoder.js'
import { inverseFactorOf, productTransposed } from '../../support/linear.js'
import { INNER, randomBlock, specs } from '../../support/random_block.js'
import { referenceBlock } from '../../support/reference_block.js'

const native = addon()
const TAPS = ['qkv', 'o', 'gateUp', 'down'] as const
const sizesOf = (spec: BlockSpec) => ({
  qkv: spec.hiddenSize,
  o: spec.heads * spec.headDim,
  gateUp: spec.hiddenSize,
  down: INNER,
})
const hessiansFor = (spec: BlockSpec) =>
  Object.fromEntries(
    Object.entries(sizesOf(spec)).map(([tap, size]) => [tap, new native.Hessian(size, 0)]),
  ) as Record<TapName, NativeHessian>

const rowsOf = (values: Float32Array, width: number) =>
  Array.from({ length: values.length / width }, (_, r) =>
    Array.from(values.subarray(r * width, (r + 1) * width)),
  )

/** The reference's states and tapped inputs of all sequences, tokens in order. */
function referenceOf(spec: BlockSpec, weights: BlockWeights, values: Float32Array, length: number) {
  const size = length * spec.hiddenSize
  const results = Array.from({ length: values.length / size }, (_, s) =>
    referenceBlock(spec, weights, rowsOf(values.subarray(s * size, (s + 1) * size), spec.hiddenSize)),
  )
  return {
    states: results.flatMap(({ states }) => states).flat(),
    inputs: (tap: TapName) => results.flatMap(({ taps }) => taps[tap]),
  }
}

/** Σ yᵀx over tokens. */
function products(y: number[][], x: number[][]): Float64Array {
  const n = x[0]!.length
  const sums = new Float64Array(n * n)
  for (const [t, row] of y.entries())
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) sums[i * n + j]! += row[i]! * x[t]![j]!
  return sums
}

const ROWS = 9
const SEQUENCES = 4

/** What quantizeLinear at 8 bits makes of `w`: nearly the weight that it aims at. */
async function target(
  w: NativeTensor,
  hessian: NativeHessian,
  inputDriftWeight: number,
): Promise<Float32Array> {
  const options = { bits: 8, groupSize: 4, allocation: 'uniform', quantizer: 'minmax' } as const
  const { packed } = await run(
    native.quantizeLinear(w, hessian, { ...options, compensation: 'gptq', inputDriftWeight }, 2),
  )
  return (await run(packed.dequantize(2))).toFloat32Array()
}

/**
 * W + share · W Σ(X̃ − X)ᵀX (XᵀX + λ)⁻¹, λ 1 % of the mean diagonal; first without the columns of channels that never
 * fire in X (their H_jj counts as 1), whatever they do in X̃.
 */
function corrected(w: Float32Array, x: number[][], original: number[][], share: number): Float64Array {
  const n = x[0]!.length
  const drift = products(
    original.map((row, t) => row.map((value, j) => value - x[t]![j]!)),
    x,
  )
  const a = products(x, x)
  const dead = Array.from({ length: n }, (_, j) => a[j * n + j] === 0)
  for (let j = 0; j < n; j++) if (dead[j]) a[j * n + j] = SEQUENCES / 2 // H = 2/N XᵀX
  const lambda = (0.01 / n) * dead.reduce((sum, _, j) => sum + a[j * n + j]!, 0)
  for (let j = 0; j < n; j++) a[j * n + j]! += lambda
  const u = inverseFactorOf(a, n) // A⁻¹ = UᵀU
  const transposed = (m: Float64Array) => m.map((_, i) => m[(i % n) * n + Math.floor(i / n)]!)
  let moved = productTransposed(w, transposed(drift), ROWS, n, n)
  moved = productTransposed(moved, u, ROWS, n, n)
  moved = productTransposed(moved, transposed(u), ROWS, n, n)
  return moved.map((value, i) => (dead[i % n] ? 0 : w[i]!) + share * value)
}

const distance = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Math.sqrt(Array.from(a).reduce((sum, value, i) => sum + (value - b[i]!) ** 2, 0))

type Inputs = (tap: TapName) => number[][]

async function expectDrift(
  spec: BlockSpec,
  taps: Record<TapName, NativeHessian>,
  x: Inputs,
  original: Inputs,
  names: readonly TapName[] = TAPS,
) {
  for (const tap of names) {
    const w = randomTensor([ROWS, sizesOf(spec)[tap]], 31)
    const values = w.toFloat32Array()
    const [start, half, whole] = [0, 0.5, 1].map((share) => corrected(values, x(tap), original(tap), share))
    const way = distance(start!, whole!)
    expect(way, tap).toBeGreaterThan(0.05 * distance(values, new Float32Array(values.length)))
    for (const [share, expected] of [
      [0, start],
      [0.5, half],
      [1, whole],
    ] as const)
      expect(distance(await target(w, taps[tap], share), expected!), `${tap}, ${share}`).toBeLessThan(
        0.05 * way,
      )
  }
}

describe.each(Object.keys(specs))('the drift of a block %s', (name) => {
  const { spec, weights } = randomBlock(name)
  const length = 29
  const shape = [SEQUENCES * length, spec.hiddenSize]
  const values = randomFloats(shape[0]! * shape[1]!, 99, 2)
  const noise = randomFloats(values.length, 7, 2)
  const originalValues = values.map((value, i) => value + 0.5 * noise[i]!)
  const x = referenceOf(spec, weights, values, length)
  const original = referenceOf(spec, weights, originalValues, length)

  it.each(native.instructionSets())('is Σ (X̃ − X)ᵀX, and moves weights by its share (%s)', async (set) => {
    native.setInstructionSet(set)
    const block = new native.DecoderBlock(spec, weights)
    const states = native.tensorFrom(values, 'F32', shape)
    const originalStates = native.tensorFrom(originalValues, 'F32', shape)
    const taps = hessiansFor(spec)
    const options = {
      sequenceLength: length,
      taps,
      original: { block, states: originalStates, advance: true },
    }
    await run(block.forward(states, options, 2))
    native.setInstructionSet(native.instructionSets().at(-1)!)
    expect(states.toFloat32Array()).toEqual(values)
    expect(largestDifference(originalStates.toFloat32Array(), original.states)).toBeLessThan(1e-4)
    await expectDrift(spec, taps, x.inputs, original.inputs)
  })
})

describe('the drift', () => {
  const { spec, weights } = randomBlock('like LLaMA')
  const block = new native.DecoderBlock(spec, weights)

  it('is gathered over sequences longer than a tile', async () => {
    const windowed = { ...spec, attention: { ...spec.attention, window: 9 } }
    const long = new native.DecoderBlock(windowed, weights)
    const length = 2100
    const shape = [length, spec.hiddenSize]
    const values = randomFloats(length * spec.hiddenSize, 5, 2)
    const noise = randomFloats(values.length, 6)
    const originalValues = values.map((value, i) => value + noise[i]!)
    const originalStates = native.tensorFrom(originalValues, 'F32', shape)
    const taps = hessiansFor(spec)
    const options = {
      sequenceLength: length,
      taps,
      original: { block: long, states: originalStates, advance: true },
    }
    await run(long.forward(native.tensorFrom(values, 'F32', shape), options, 2))
    const original = referenceOf(windowed, weights, originalValues, length)
    expect(largestDifference(originalStates.toFloat32Array(), original.states)).toBeLessThan(1e-4)
    await expectDrift(spec, taps, referenceOf(windowed, weights, values, length).inputs, original.inputs)
  })

  it('makes up for a channel that fired before the blocks were quantized, and no longer does', async () => {
    const { spec, weights } = randomBlock('like OPT')
    const up = weights.linears.up!
    const bias = up.bias!.toFloat32Array().fill(-1e3, 5, 8)
    const linears = { ...weights.linears, up: { ...up, bias: native.tensorFrom(bias, 'F32', [INNER]) } }
    const changed = { ...weights, linears }
    const shape = [SEQUENCES * 29, spec.hiddenSize]
    const values = randomFloats(shape[0]! * shape[1]!, 99, 2)
    const states = () => native.tensorFrom(values, 'F32', shape)
    const taps = hessiansFor(spec)
    const original = { block: new native.DecoderBlock(spec, weights), states: states(), advance: true }
    const options = { sequenceLength: 29, taps, original }
    await run(new native.DecoderBlock(spec, changed).forward(states(), options, 2))
    const [now, before] = [changed, weights].map((w) => referenceOf(spec, w, values, 29).inputs)
    await expectDrift(spec, taps, now!, before!, ['down'])
  })

  it('is nothing without original states, and where they are the same', async () => {
    const states = () => randomTensor([58, spec.hiddenSize], 3, 2)
    const w = randomTensor([ROWS, spec.hiddenSize], 31)
    const targets = []
    for (const original of [undefined, { block, states: states(), advance: true }]) {
      const taps = hessiansFor(spec)
      await run(block.forward(states(), { sequenceLength: 29, taps, original }, 2))
      targets.push(await target(w, taps.qkv, 0), await target(w, taps.qkv, 1))
    }
    for (const other of targets.slice(1)) expect(other).toEqual(targets[0])
  })

  it('gives the same bytes with one thread and two', async () => {
    const w = randomTensor([ROWS, INNER], 31)
    const targets = []
    for (const threads of [1, 2]) {
      const taps = hessiansFor(spec)
      const original = { block, states: randomTensor([58, spec.hiddenSize], 4, 2), advance: true }
      const states = randomTensor([58, spec.hiddenSize], 3, 2)
      await run(block.forward(states, { sequenceLength: 29, taps, original }, threads))
      targets.push(await target(w, taps.down, 1))
    }
    expect(targets[1]).toEqual(targets[0])
  })

  it('refuses originals that do not fit', () => {
    const states = randomTensor([58, spec.hiddenSize], 3)
    const taps = hessiansFor(spec)
    const narrow = {
      q: { weight: randomTensor([12, spec.hiddenSize], 1) },
      o: { weight: randomTensor([spec.hiddenSize, 12], 1) },
    }
    const stranger = new native.DecoderBlock(
      { ...spec, heads: 2, kvHeads: 2 },
      { ...weights, linears: { ...weights.linears, ...narrow } },
    )
    const attempt = (options: object) => () => block.forward(states, { sequenceLength: 29, ...options }, 1)
    for (const [options, parameter] of [
      [{ original: { block, states } }, 'original'],
      [{ taps, original: { block: {}, states } }, 'original.block'],
      [{ taps, original: { block: stranger, states } }, 'original.block'],
      [{ taps, original: { block, states: randomTensor([57, spec.hiddenSize], 3) } }, 'original.states'],
      [{ taps, original: { block, states: randomTensor([29, 2 * spec.hiddenSize], 3) } }, 'original.states'],
      [{ taps, original: { block } }, 'original.states'],
    ] as const)
      expect(attempt(options)).toThrow(expect.objectContaining({ code: 'SLIM_INVALID_ARGUMENT', parameter }))
  })
})
