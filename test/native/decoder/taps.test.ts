/** A block run in stages: its output, and how far inputs and states have drifted from the original model's. */
import { describe, expect, it } from 'vitest'
import type { BlockSpec } from '../../../lib/architecture/index.js'
import {
  addon,
  type BlockWeights,
  type NativeDecoderBlock,
  type NativeHessian,
  type NativeTensor,
  run,
  type StagedPass,
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

interface Reference {
  /** The block's output. */
  states: number[]
  /** X of a tap, tokens in order. */
  inputs(tap: TapName): number[][]
  /** S that the layers of a tap add their outputs to as they are; null where there is none. */
  statesAt(tap: TapName): number[][] | null
}

function referenceOf(
  spec: BlockSpec,
  weights: BlockWeights,
  values: Float32Array,
  length: number,
): Reference {
  const size = length * spec.hiddenSize
  const results = Array.from({ length: values.length / size }, (_, s) =>
    referenceBlock(spec, weights, rowsOf(values.subarray(s * size, (s + 1) * size), spec.hiddenSize)),
  )
  const states = results.flatMap((result) => result.states)
  const inputs = (tap: TapName) => results.flatMap(({ taps }) => taps[tap])
  const down = weights.linears.down!
  const w = (down.weight as NativeTensor).toFloat32Array()
  const bias = down.bias?.toFloat32Array()
  const downOutput = (x: number[], r: number) =>
    x.reduce((sum, value, j) => sum + value * w[r * x.length + j]!, bias?.[r] ?? 0)
  const statesAt = (tap: TapName) => {
    if (tap === 'o' && !weights.norms.postAttention) return rowsOf(values, spec.hiddenSize)
    if (tap !== 'down' || weights.norms.postMlp) return null
    return inputs('down').map((x, t) => states[t]!.map((value, r) => value - downOutput(x, r)))
  }
  return { states: states.flat(), inputs, statesAt }
}

/** Σ yᵀx over tokens: [size of y, size of x]. */
function products(y: number[][], x: number[][]): Float64Array {
  const [m, n] = [y[0]!.length, x[0]!.length]
  const sums = new Float64Array(m * n)
  for (const [t, row] of y.entries())
    for (let i = 0; i < m; i++) for (let j = 0; j < n; j++) sums[i * n + j]! += row[i]! * x[t]![j]!
  return sums
}

const SEQUENCES = 4

interface Shares {
  inputDriftWeight: number
  stateDriftWeight: number
}

/** What quantizeLinear at 8 bits makes of `w`: nearly the weight that it aims at. */
async function target(w: NativeTensor, hessian: NativeHessian, shares: Shares): Promise<Float32Array> {
  const options = { bits: 8, groupSize: 4, allocation: 'uniform', quantizer: 'minmax' } as const
  const { packed } = await run(
    native.quantizeLinear(w, hessian, { ...options, compensation: 'gptq', ...shares }, 2),
  )
  return (await run(packed.dequantize(2))).toFloat32Array()
}

/**
 * W + [share · W Σ(X̃ − X)ᵀX + share' · Σ(S̃ − S)ᵀX] (XᵀX + λ)⁻¹, λ 1 % of the mean diagonal; first without the columns
 * of channels that never fire in X (their H_jj counts as 1), whatever they do in X̃.
 */
function corrected(
  w: Float32Array,
  tap: TapName,
  now: Reference,
  original: Reference,
  { inputDriftWeight, stateDriftWeight }: Shares,
): Float64Array {
  const x = now.inputs(tap)
  const [n, rows] = [x[0]!.length, w.length / x[0]!.length]
  const minus = (a: number[][], b: number[][]) => a.map((row, t) => row.map((value, j) => value - b[t]![j]!))
  const transposed = (m: Float64Array) => m.map((_, i) => m[(i % n) * n + Math.floor(i / n)]!)
  const a = products(x, x)
  const dead = Array.from({ length: n }, (_, j) => a[j * n + j] === 0)
  for (let j = 0; j < n; j++) if (dead[j]) a[j * n + j] = SEQUENCES / 2 // H = 2/N XᵀX
  const lambda = (0.01 / n) * dead.reduce((sum, _, j) => sum + a[j * n + j]!, 0)
  for (let j = 0; j < n; j++) a[j * n + j]! += lambda
  const u = inverseFactorOf(a, n) // A⁻¹ = UᵀU
  const inputDrift = products(minus(original.inputs(tap), x), x)
  const [states, originalStates] = [now.statesAt(tap), original.statesAt(tap)]
  const stateDrift = states && products(minus(originalStates!, states), x)
  let moved: Float64Array = productTransposed(w, transposed(inputDrift), rows, n, n).map(
    (value, i) => inputDriftWeight * value + stateDriftWeight * (stateDrift?.[i] ?? 0),
  )
  moved = productTransposed(moved, u, rows, n, n)
  moved = productTransposed(moved, transposed(u), rows, n, n)
  return moved.map((value, i) => (dead[i % n] ? 0 : w[i]!) + value)
}

const ALL = { inputDriftWeight: 1, stateDriftWeight: 1 }
const NO_SHARES = { inputDriftWeight: 0, stateDriftWeight: 0 }
const SHARES: Shares[] = [
  NO_SHARES,
  { inputDriftWeight: 0.5, stateDriftWeight: 0 },
  { inputDriftWeight: 1, stateDriftWeight: 0 },
  { inputDriftWeight: 0, stateDriftWeight: 1 },
  { inputDriftWeight: 0.5, stateDriftWeight: 0.25 },
]

const rowTensor = (values: Float32Array, width: number) =>
  native.tensorFrom(values, 'F32', [values.length / width, width])

/** A pass over states [tokens, hidden]. */
const passOf = (spec: BlockSpec, states: NativeTensor): StagedPass => ({
  states,
  attended: native.allocateTensor('F32', [states.shape[0]!, sizesOf(spec).o]),
  inner: native.allocateTensor('F32', [states.shape[0]!, INNER]),
})

/** All stages of a pass, beside an original's, into Hessians. */
async function runStages(
  block: NativeDecoderBlock,
  pass: StagedPass,
  sequenceLength: number,
  taps: Record<TapName, NativeHessian>,
  original?: { block: NativeDecoderBlock; pass: StagedPass },
  threads = 2,
): Promise<void> {
  for (const tap of TAPS)
    await run(block.stage(tap, { sequenceLength, pass, hessian: taps[tap], original }, threads))
  await run(block.stage('end', { sequenceLength, pass, original }, threads))
}

const distance = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Math.sqrt(Array.from(a).reduce((sum, value, i) => sum + (value - b[i]!) ** 2, 0))

async function expectDrift(
  spec: BlockSpec,
  taps: Record<TapName, NativeHessian>,
  now: Reference,
  original: Reference,
  names: readonly TapName[] = TAPS,
) {
  for (const tap of names) {
    const w = randomTensor([spec.hiddenSize, sizesOf(spec)[tap]], 31)
    const values = w.toFloat32Array()
    const aims = SHARES.map((shares) => corrected(values, tap, now, original, shares))
    // What 8 bits cannot tell apart is a twentieth of the way at most.
    const way = distance(aims[0]!, aims[2]!)
    expect(way, tap).toBeGreaterThan(0.05 * distance(values, new Float32Array(values.length)))
    for (const [i, shares] of SHARES.entries())
      expect(
        distance(await target(w, taps[tap], shares), aims[i]!),
        `${tap} ${JSON.stringify(shares)}`,
      ).toBeLessThan(0.05 * way)
  }
}

describe.each(Object.keys(specs))('the drift of a block %s', (name) => {
  const { spec, weights } = randomBlock(name)
  const length = 29
  const shape = [SEQUENCES * length, spec.hiddenSize]
  const values = randomFloats(shape[0]! * shape[1]!, 99, 2)
  const noise = randomFloats(values.length, 7, 2)
  const originalValues = values.map((value, i) => value + 0.5 * noise[i]!)
  const now = referenceOf(spec, weights, values, length)
  const original = referenceOf(spec, weights, originalValues, length)

  it.each(native.instructionSets())(
    'of inputs and of states moves weights by its shares (%s)',
    async (set) => {
      native.setInstructionSet(set)
      const block = new native.DecoderBlock(spec, weights)
      const states = native.tensorFrom(values, 'F32', shape)
      const originalStates = native.tensorFrom(originalValues, 'F32', shape)
      const taps = hessiansFor(spec)
      const beside = { block, pass: passOf(spec, originalStates) }
      await runStages(block, passOf(spec, states), length, taps, beside)
      const forwarded = native.tensorFrom(values, 'F32', shape)
      await run(block.forward(forwarded, { sequenceLength: length }, 2))
      native.setInstructionSet(native.instructionSets().at(-1)!)
      expect(states.toFloat32Array()).toEqual(forwarded.toFloat32Array()) // a resumed run runs blocks whole
      expect(largestDifference(originalStates.toFloat32Array(), original.states)).toBeLessThan(1e-4)
      await expectDrift(spec, taps, now, original)
    },
  )
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
    const states = rowTensor(values, spec.hiddenSize)
    const beside = { block: long, pass: passOf(spec, originalStates) }
    await runStages(long, passOf(spec, states), length, taps, beside)
    const forwarded = rowTensor(values, spec.hiddenSize)
    await run(long.forward(forwarded, { sequenceLength: length }, 2))
    expect(states.toFloat32Array()).toEqual(forwarded.toFloat32Array())
    const original = referenceOf(windowed, weights, originalValues, length)
    expect(largestDifference(originalStates.toFloat32Array(), original.states)).toBeLessThan(1e-4)
    await expectDrift(spec, taps, referenceOf(windowed, weights, values, length), original)
  })

  it('makes up for a channel that fired before the blocks were quantized, and no longer does', async () => {
    const { spec, weights } = randomBlock('like OPT')
    const up = weights.linears.up!
    const bias = up.bias!.toFloat32Array().fill(-1e3, 5, 8)
    const linears = { ...weights.linears, up: { ...up, bias: native.tensorFrom(bias, 'F32', [INNER]) } }
    const changed = { ...weights, linears }
    const values = randomFloats(SEQUENCES * 29 * spec.hiddenSize, 99, 2)
    const pass = () => passOf(spec, rowTensor(values, spec.hiddenSize))
    const taps = hessiansFor(spec)
    const original = { block: new native.DecoderBlock(spec, weights), pass: pass() }
    await runStages(new native.DecoderBlock(spec, changed), pass(), 29, taps, original)
    const [now, before] = [changed, weights].map((w) => referenceOf(spec, w, values, 29))
    await expectDrift(spec, taps, now!, before!, ['down'])
  })

  it('is nothing without original states, and where they are the same', async () => {
    const pass = () => passOf(spec, randomTensor([58, spec.hiddenSize], 3, 2))
    const w = randomTensor([spec.hiddenSize, INNER], 31)
    const targets = []
    for (const original of [undefined, { block, pass: pass() }]) {
      const taps = hessiansFor(spec)
      await runStages(block, pass(), 29, taps, original)
      targets.push(await target(w, taps.down, NO_SHARES), await target(w, taps.down, ALL))
    }
    for (const other of targets.slice(1)) expect(other).toEqual(targets[0])
  })

  it('gives the same bytes with one thread and two', async () => {
    const w = randomTensor([spec.hiddenSize, INNER], 31)
    const targets = []
    for (const threads of [1, 2]) {
      const taps = hessiansFor(spec)
      const original = { block, pass: passOf(spec, randomTensor([58, spec.hiddenSize], 4, 2)) }
      const pass = passOf(spec, randomTensor([58, spec.hiddenSize], 3, 2))
      await runStages(block, pass, 29, taps, original, threads)
      targets.push(await target(w, taps.down, ALL))
    }
    expect(targets[1]).toEqual(targets[0])
  })

  it('refuses originals that do not fit', () => {
    const states = randomTensor([58, spec.hiddenSize], 3)
    const pass = passOf(spec, states)
    const other = passOf(spec, randomTensor([58, spec.hiddenSize], 4))
    const short = passOf(spec, randomTensor([57, spec.hiddenSize], 3))
    const narrow = {
      q: { weight: randomTensor([12, spec.hiddenSize], 1) },
      o: { weight: randomTensor([spec.hiddenSize, 12], 1) },
    }
    const stranger = new native.DecoderBlock(
      { ...spec, heads: 2, kvHeads: 2 },
      { ...weights, linears: { ...weights.linears, ...narrow } },
    )
    const attempt = (options: object) => () => block.stage('o', { sequenceLength: 29, pass, ...options }, 1)
    for (const [options, parameter] of [
      [{ hessian: new native.Hessian(INNER, 0) }, 'hessian'],
      [{ pass: { ...pass, inner: pass.attended } }, 'pass.inner'],
      [{ pass: { ...pass, attended: short.attended } }, 'pass.attended'],
      [{ original: { block: {}, pass: other } }, 'original.block'],
      [{ original: { block: stranger, pass: other } }, 'original.block'],
      [{ original: { block, pass } }, 'original.pass'],
      [{ original: { block, pass: short } }, 'original.pass'],
      [{ original: { block } }, 'original.pass'],
    ] as const)
      expect(attempt(options)).toThrow(expect.objectContaining({ code: 'SLIM_INVALID_ARGUMENT', parameter }))
  })
})
