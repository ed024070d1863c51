/** The backward pass of decoder blocks on the emulated device, against the CPU's. */
import { afterAll, describe, expect, it } from 'vitest'
import type { BlockSpec } from '../../lib/architecture/index.js'
import {
  addon,
  type BlockGradients,
  type BlockWeights,
  type NativeDecoderBlock,
  type NativeHessian,
  type NativeTensor,
  run,
  type TapName,
} from '../../lib/native/addon.js'
import { type EmulatedDevice, hasEmulator, onGpu, openEmulated } from '../support/cuda.js'
import { FAMILIES, largestDifference, loadFixture, randomTensor } from '../support/decoder.js'
import { copyOf } from '../support/gradients.js'
import { INNER, randomBlock, randomBlockOf, specs } from '../support/random_block.js'

const skip = !hasEmulator()
const emulated: EmulatedDevice | null = skip ? null : openEmulated()
afterAll(() => emulated?.close())

const KERNELS = ['normRowsBackward', 'activateRowsBackward', 'prepareHeadsBackward', 'softmaxBackward']
const TAPS = ['qkv', 'o', 'gateUp', 'down'] as const

/** Largest differences as a share of the largest expected value. Measured: up to 1.5e-6. */
interface Differences {
  states: number
  fisher: number
  tokenPowers: number
  hessians: number
}
const BOUND = 5e-6

const largest = (values: ArrayLike<number>) => largestDifference(values, new Float64Array(values.length))
/** Beside values that are all zero but for rounding (q and k of one token), `least` is what counts. */
const relativeError = (values: ArrayLike<number>, expected: ArrayLike<number>, least = 0) => {
  expect(values.length).toBe(expected.length)
  return largestDifference(values, expected) / Math.max(largest(expected), least)
}

interface Case {
  windows: number
  length: number
  tileTokens?: number
  onHost?: boolean
}

function hessians(spec: BlockSpec, inner: number, make: (size: number) => NativeHessian) {
  const sizes = {
    qkv: spec.hiddenSize,
    o: spec.heads * spec.headDim,
    gateUp: spec.hiddenSize,
    down: inner,
  }
  return Object.fromEntries(TAPS.map((tap) => [tap, make(sizes[tap])])) as Record<TapName, NativeHessian>
}

/** One backward pass on the device. */
async function backwardOnDevice(
  block: NativeDecoderBlock,
  inputs: NativeTensor,
  outputGradients: NativeTensor,
  taps: Record<TapName, NativeHessian>,
  { length, tileTokens, onHost = false }: Case,
): Promise<{ gradients: NativeTensor; found: BlockGradients }> {
  const { device } = emulated!
  const deviceBlock = await run(device.calibrationBlock(block, 1))
  const states = await run(device.states(inputs, { onHost }))
  const gradients = await run(device.states(copyOf(outputGradients), { onHost }))
  const options = { sequenceLength: length, fisher: true, taps, tileTokens }
  const found = await run(deviceBlock.backward(states, gradients, options, 1))
  const result = { gradients: gradients.read(), found }
  for (const handle of [states, gradients, deviceBlock]) handle.dispose()
  return result
}

/** The device's backward pass beside the CPU's. */
async function differences(
  block: NativeDecoderBlock,
  spec: BlockSpec,
  inner: number,
  shape: Case,
): Promise<Differences> {
  const tokens = shape.windows * shape.length
  const inputs = randomTensor([tokens, spec.hiddenSize], 1, 2)
  const outputGradients = randomTensor([tokens, spec.hiddenSize], 2)
  const expectedTaps = hessians(spec, inner, (size) => new (addon().Hessian)(size, 3))
  const expectedGradients = copyOf(outputGradients)
  const options = { sequenceLength: shape.length, fisher: true, taps: expectedTaps }
  const expected = await run(block.backward(inputs, expectedGradients, options, 1))
  const taps = hessians(spec, inner, (size) => emulated!.device.hessian(size, 3))
  const { gradients, found } = await backwardOnDevice(block, inputs, outputGradients, taps, shape)

  expect(Object.keys(found.fisher)).toEqual(Object.keys(expected.fisher))
  expect(Object.keys(found.tokenPowers)).toEqual(Object.keys(expected.tokenPowers))
  expect(found.weightGradients).toEqual({})
  const worst = (values: number[]) => Math.max(...values)
  const byRole = Object.entries(expected.fisher)
  const least = 1e-4 * worst(byRole.map(([, rows]) => largest(rows)))
  const result = {
    states: relativeError(gradients.toFloat32Array(), expectedGradients.toFloat32Array()),
    fisher: worst(
      byRole.map(([role, rows]) =>
        relativeError(found.fisher[role as keyof typeof found.fisher]!, rows, least),
      ),
    ),
    tokenPowers: worst(
      TAPS.map((tap) => relativeError(found.tokenPowers[tap]!, expected.tokenPowers[tap]!, least / tokens)),
    ),
    hessians: worst(
      TAPS.map((tap) => {
        expect(taps[tap].sequences).toBe(shape.windows)
        return relativeError(taps[tap].matrix().toFloat32Array(), expectedTaps[tap].matrix().toFloat32Array())
      }),
    ),
  }
  for (const tap of TAPS) taps[tap].dispose()
  return result
}

function expectClose(found: Differences) {
  if (process.env.SLIM_SHOW) console.log(expect.getState().currentTestName, JSON.stringify(found))
  for (const [what, difference] of Object.entries(found)) expect(difference, what).toBeLessThan(BOUND)
}

describe.skipIf(skip).each(FAMILIES)('a block of %s on its way back', (family) => {
  it.each([
    [2, 21],
    [1, 65],
  ])('gives what the CPU does (%i windows of %i tokens)', async (windows, length) => {
    const { blocks, spec } = await loadFixture(family)
    const { spec: blockSpec, linears } = spec.blocks[0]!
    const inner = linears.find(({ role }) => role === 'down')!.cols
    expectClose(await differences(blocks[0]!, blockSpec, inner, { windows, length }))
  })
})

describe.skipIf(skip).each(Object.keys(specs))('a block %s on its way back', (name) => {
  const { spec, weights } = randomBlock(name)

  it.each<[number, number, number?]>([
    [3, 1],
    [2, 5],
    [2, 33],
    [1, 70, 48], // tiles of queries
  ])('gives what the CPU does (%i windows of %i tokens)', async (windows, length, tileTokens) => {
    const block = new (addon().DecoderBlock)(spec, weights)
    expectClose(await differences(block, spec, INNER, { windows, length, tileTokens }))
  })
})

describe.skipIf(skip)('a backward pass on the device', () => {
  const { spec, weights } = randomBlock('like Gemma 2')
  const block = skip ? null! : new (addon().DecoderBlock)(spec, weights)

  it.each<Case>([
    { windows: 5, length: 33, tileTokens: 128 }, // two windows a tile, and one
    { windows: 2, length: 70, tileTokens: 20 }, // longer than a tile
    { windows: 3, length: 33, tileTokens: 64, onHost: true },
  ])('goes tile by tile: %o', async (shape) => {
    expectClose(await differences(block, spec, INNER, shape))
  })

  it('gives the same bytes wherever the states lie', async () => {
    const inputs = randomTensor([66, spec.hiddenSize], 1, 2)
    const outputGradients = randomTensor([66, spec.hiddenSize], 2)
    const [there, here] = await Promise.all(
      [false, true].map(async (onHost) => {
        const taps = hessians(spec, INNER, (size) => emulated!.device.hessian(size, 3))
        const shape = { windows: 2, length: 33, onHost }
        const { gradients, found } = await backwardOnDevice(block, inputs, outputGradients, taps, shape)
        const matrices = TAPS.map((tap) => taps[tap].matrix().toBytes())
        for (const tap of TAPS) taps[tap].dispose()
        return { gradients: gradients.toBytes(), found, matrices }
      }),
    )
    expect(here).toEqual(there)
  })

  it.each(['F16', 'BF16'] as const)('takes weights in %s', async (dtype) => {
    const { spec, weights } = randomBlock('like LLaMA')
    const linears = Object.fromEntries(
      await Promise.all(
        Object.entries(weights.linears).map(async ([role, { weight }]) => [
          role,
          { weight: await run(addon().convertTensor(weight as NativeTensor, dtype, 1)) },
        ]),
      ),
    ) as BlockWeights['linears']
    const short = new (addon().DecoderBlock)(spec, { ...weights, linears })
    expectClose(await differences(short, spec, INNER, { windows: 1, length: 9 }))
  })

  it('takes packed weights', async () => {
    const { spec, weights } = randomBlock('like LLaMA')
    const linears = Object.fromEntries(
      await Promise.all(
        Object.entries(weights.linears).map(async ([role, { weight }]) => {
          const groupBits = new Uint8Array(Math.ceil((weight as NativeTensor).shape[1]! / 8)).fill(3)
          const options = { groupSize: 8, quantizer: 'minmax' } as const
          return [
            role,
            { weight: await run(addon().fitGroups(weight as NativeTensor, groupBits, options, 1)) },
          ]
        }),
      ),
    ) as BlockWeights['linears']
    const packed = new (addon().DecoderBlock)(spec, { ...weights, linears })
    expectClose(await differences(packed, spec, INNER, { windows: 1, length: 9 }))
  })

  it('gathers nothing unasked', async () => {
    const { device } = emulated!
    const deviceBlock = await run(device.calibrationBlock(block, 1))
    const random = (seed: number) => run(device.states(randomTensor([6, spec.hiddenSize], seed)))
    const [inputs, gradients] = [await random(1), await random(2)]
    const found = await run(deviceBlock.backward(inputs, gradients, { sequenceLength: 6 }, 1))
    expect(found).toEqual({ fisher: {}, tokenPowers: {}, weightGradients: {} })
    for (const handle of [inputs, gradients, deviceBlock]) handle.dispose()
  })

  it.skipIf(onGpu)('meets no bank of shared memory twice, and reads whole sectors', async () => {
    const headDim = 64
    const frequencies = Float32Array.from({ length: headDim / 2 }, (_, i) => 10 ** (-i / 8))
    const { spec, weights } = randomBlockOf(
      {
        spec: {
          hiddenSize: 64,
          heads: 2,
          kvHeads: 2,
          headDim,
          rotary: { dim: headDim, inverseFrequencies: frequencies, scale: 1 },
        },
        norms: ['q', 'k'],
      },
      64,
    )
    const wide = new (addon().DecoderBlock)(spec, weights)
    emulated!.launches()
    expectClose(await differences(wide, spec, 64, { windows: 1, length: 40 }))
    const launches = emulated!.launches()
    for (const kernel of KERNELS) {
      const own = launches.filter((launch) => launch.kernel === kernel)
      expect(own.length, kernel).toBeGreaterThan(0)
      for (const launch of own) {
        expect(launch.sharedWavefronts, kernel).toBe(launch.minimumWavefronts)
        expect(launch.sectors, kernel).toBe(launch.minimumSectors)
      }
    }
  })

  it('names bad input, and ends when it is cancelled or disposed', async () => {
    const { device } = emulated!
    const deviceBlock = await run(device.calibrationBlock(block, 1))
    const zeros = (tokens: number, width: number) => run(device.states({ tokens, width }))
    const [x, dx] = [await zeros(6, 20), await zeros(6, 20)]
    const [narrow, short] = [await zeros(6, 19), await zeros(5, 20)]
    const options = { sequenceLength: 6 }
    expect(() => deviceBlock.backward(narrow, dx, options, 1)).toThrow(/\[tokens, 20\] for inputs/)
    expect(() => deviceBlock.backward(x, narrow, options, 1)).toThrow(/\[6, 20\] for gradients/)
    expect(() => deviceBlock.backward(x, short, options, 1)).toThrow(/\[6, 20\] for gradients/)
    expect(() => deviceBlock.backward(x, x, options, 1)).toThrow(/other states than inputs for gradients/)
    expect(() => deviceBlock.backward(x, dx, { sequenceLength: 0 }, 1)).toThrow(/for sequenceLength/)
    const byWeights = { ...options, weightGradients: true }
    expect(() => deviceBlock.backward(x, dx, byWeights, 1)).toThrow(/none on a device for weightGradients/)
    const uneven = deviceBlock.backward(x, dx, { sequenceLength: 4 }, 1)
    await expect(run(uneven)).rejects.toThrow(/divisor of the 6 tokens for sequenceLength/)
    const [many, gradients] = [await zeros(3000, 20), await zeros(3000, 20)]
    const job = deviceBlock.backward(many, gradients, { ...options, tileTokens: 6 }, 1)
    job.cancel()
    await expect(run(job)).rejects.toMatchObject({ code: 'SLIM_ABORTED' })
    deviceBlock.dispose()
    expect(() => deviceBlock.backward(x, dx, options, 1)).toThrow(
      expect.objectContaining({ code: 'SLIM_DISPOSED' }),
    )
    for (const states of [x, dx, narrow, short, many, gradients]) states.dispose()
  })
})
