import { describe, expect, it } from 'vitest'
import {
  addon,
  type BlockGradients,
  type BlockWeights,
  type LinearRole,
  type NativeHessian,
  type NativeTensor,
  run,
  type TapName,
} from '../../../lib/native/addon.js'
import {
  FAMILIES,
  largestDifference,
  loadFixture,
  randomFloats,
  randomIds,
  randomTensor,
  readJson,
} from '../../support/decoder.js'
import { copyOf, goldenGradients, modelGradients } from '../../support/gradients.js'
import { INNER, randomBlock, specs } from '../../support/random_block.js'
import { referenceBlock } from '../../support/reference_block.js'

const largest = (values: ArrayLike<number>) => largestDifference(values, new Float64Array(values.length))
/** The largest difference as a share of the largest expected value. */
const relativeError = (values: ArrayLike<number>, expected: ArrayLike<number>) =>
  largestDifference(values, expected) / largest(expected)
const dot = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from(a).reduce((sum, value, i) => sum + value * b[i]!, 0)
const strongest = addon().instructionSets().at(-1)!

describe.each(FAMILIES)('%s against PyTorch', (family) => {
  const golden = goldenGradients(family)
  const ids = Int32Array.from(readJson<{ input_ids: number[] }>(family, 'golden.json').input_ids)

  it.each(addon().instructionSets())('gives its gradients (%s)', async (set) => {
    addon().setInstructionSet(set)
    const decoder = await loadFixture(family)
    const { states, blocks } = await modelGradients(decoder, ids, ids.length)
    addon().setInstructionSet(strongest)
    expect(relativeError(states.toFloat32Array(), golden.states!)).toBeLessThan(1e-5)
    decoder.spec.blocks.forEach((block, i) => {
      for (const { role, name, cols } of block.linears) {
        expect(relativeError(blocks[i]!.fisher[role]!, golden[`fisher.${name}`]!), name).toBeLessThan(1e-5)
        const w = blocks[i]!.weightGradients[role]!.toFloat32Array()
        const sums = golden[`weightSums.${name}`]!.map((_, r) =>
          w.subarray(r * cols, (r + 1) * cols).reduce((a, b) => a + b, 0),
        )
        const scale = largest(w) * Math.sqrt(cols)
        expect(largestDifference(sums, golden[`weightSums.${name}`]!) / scale, name).toBeLessThan(1e-5)
      }
    })
  })

  it('gives the same bits with 1 and 2 threads', async () => {
    const decoder = await loadFixture(family)
    const windows = randomIds(5 * 37, decoder.spec.vocabSize, 6)
    const [one, two] = [
      await modelGradients(decoder, windows, 37, 1),
      await modelGradients(decoder, windows, 37, 2),
    ]
    expect(two!.nll).toBe(one!.nll)
    expect(two!.states.toBytes()).toEqual(one!.states.toBytes())
    one!.blocks.forEach((block, i) => {
      expect(two!.blocks[i]!.fisher).toEqual(block.fisher)
      expect(two!.blocks[i]!.tokenPowers).toEqual(block.tokenPowers)
      for (const [role, tensor] of Object.entries(block.weightGradients))
        expect(two!.blocks[i]!.weightGradients[role as LinearRole]!.toBytes()).toEqual(tensor.toBytes())
    })
  })
})

const rowsOf = (values: ArrayLike<number>, width: number) =>
  Array.from({ length: values.length / width }, (_, r) =>
    Array.from({ length: width }, (_, i) => values[r * width + i]!),
  )

/** L = Σ projection ∘ output of the float64 block. */
function referenceLoss(
  { spec, weights }: ReturnType<typeof randomBlock>,
  states: ArrayLike<number>,
  length: number,
  projection: Float32Array,
): number {
  const rows = rowsOf(states, spec.hiddenSize)
  let outputs: number[] = []
  for (let first = 0; first < rows.length; first += length)
    outputs = outputs.concat(referenceBlock(spec, weights, rows.slice(first, first + length)).states.flat())
  return dot(outputs, projection)
}

describe.each(Object.keys(specs))('a block %s against central differences of float64', (name) => {
  const block = randomBlock(name)
  const { spec, weights } = block

  it.each([
    [1, 3],
    [7, 2],
    [33, 2],
    [130, 1], // three tiles of queries
  ])('%i tokens, %i sequences', async (length, sequences) => {
    const tokens = length * sequences
    const count = tokens * spec.hiddenSize
    const inputs = randomFloats(count, 5, 2)
    const projection = randomFloats(count, 6)
    const shape = [tokens, spec.hiddenSize]
    const gradients = addon().tensorFrom(projection, 'F32', shape)
    const native = new (addon().DecoderBlock)(spec, weights)
    const options = { sequenceLength: length, fisher: true, weightGradients: true }
    const found = await run(native.backward(addon().tensorFrom(inputs, 'F32', shape), gradients, options, 2))

    const direction = randomFloats(count, 7)
    const moved = (h: number) => Float64Array.from(inputs, (x, i) => x + h * direction[i]!)
    const loss = (states: ArrayLike<number>, of = block) => referenceLoss(of, states, length, projection)
    const h = 1e-5
    const expected = (loss(moved(h)) - loss(moved(-h))) / (2 * h)
    const gradient = gradients.toFloat32Array()
    const norm = (values: ArrayLike<number>) => Math.sqrt(dot(values, values))
    // A random direction meets a gradient's error at random signs, too: both grow with its norm.
    expect(Math.abs(dot(gradient, direction) - expected) / norm(gradient)).toBeLessThan(2e-5)

    const norms = Object.values(found.weightGradients).map((tensor) => norm(tensor.toFloat32Array()))
    // Of a layer with small gradients (q and k of a sequence of one token have none) the rounding errors count as
    // they would in a larger one.
    const least = 0.05 * Math.max(...norms)
    const stepSize = 1e-5
    for (const [key, linear] of Object.entries(weights.linears)) {
      const role = key as LinearRole
      const weight = linear.weight as NativeTensor
      const w = weight.toFloat32Array()
      const step = randomFloats(w.length, 8, stepSize)
      const [up, down] = [1, -1].map((sign) => w.map((value, i) => value + sign * step[i]!))
      const [above, below] = [up!, down!].map((values) => {
        const changed = { ...linear, weight: addon().tensorFrom(values, 'F32', weight.shape) }
        const linears = { ...weights.linears, [role]: changed }
        return loss(inputs, { spec, weights: { ...weights, linears } })
      })
      const dW = found.weightGradients[role]!.toFloat32Array()
      const change = Float64Array.from(up!, (value, i) => value - down![i]!) // as float32 has it
      const error = Math.abs(dot(dW, change) - (above! - below!)) / (2 * stepSize)
      expect(error / Math.max(norm(dW), least), role).toBeLessThan(2e-5)
    }
  })
})

describe('what is gathered', () => {
  const { spec, weights } = randomBlock('like LLaMA')
  const native = new (addon().DecoderBlock)(spec, weights)
  const [sequences, length] = [70, 33] // two tiles
  const tokens = sequences * length
  const inputs = randomTensor([tokens, spec.hiddenSize], 1, 2)
  const outputGradients = randomTensor([tokens, spec.hiddenSize], 2)
  const backward = async (first: number, count: number) => {
    const part = (tensor: NativeTensor) =>
      addon().tensorFrom(
        tensor
          .toFloat32Array()
          .slice(first * length * spec.hiddenSize, (first + count) * length * spec.hiddenSize),
        'F32',
        [count * length, spec.hiddenSize],
      )
    const gradients = part(outputGradients)
    const options = { sequenceLength: length, fisher: true, weightGradients: true }
    return { gradients, ...(await run(native.backward(part(inputs), gradients, options, 2))) }
  }

  it('adds up over tiles as over calls', async () => {
    const whole = await backward(0, sequences)
    const parts = [await backward(0, 30), await backward(30, 40)]
    const joined = parts.flatMap((part) => Array.from(part.gradients.toFloat32Array()))
    expect(relativeError(whole.gradients.toFloat32Array(), joined)).toBeLessThan(1e-6)
    for (const role of ['q', 'k', 'v', 'o', 'gate', 'up', 'down'] as const) {
      const sum = (of: (part: BlockGradients) => ArrayLike<number>) =>
        Array.from(of(parts[0]!), (value, i) => value + of(parts[1]!)[i]!)
      const fisher = (part: BlockGradients) => part.fisher[role]!
      const weight = (part: BlockGradients) => part.weightGradients[role]!.toFloat32Array()
      expect(relativeError(fisher(whole), sum(fisher)), role).toBeLessThan(1e-6)
      expect(relativeError(weight(whole), sum(weight)), role).toBeLessThan(1e-5)
    }
    for (const tap of ['qkv', 'o', 'gateUp', 'down'] as const) {
      const powers = parts.flatMap((part) => Array.from(part.tokenPowers[tap]!))
      expect(relativeError(whole.tokenPowers[tap]!, powers), tap).toBeLessThan(1e-5)
    }
  })

  it('counts every squared gradient once by output and once by token', async () => {
    const { fisher, tokenPowers } = await backward(0, 5)
    const roles = { qkv: ['q', 'k', 'v'], o: ['o'], gateUp: ['gate', 'up'], down: ['down'] } as const
    const sum = (values: ArrayLike<number>) => Array.from(values).reduce((a, b) => a + b, 0)
    for (const tap of Object.keys(roles) as TapName[]) {
      const outputs = roles[tap].flatMap((role) => Array.from(fisher[role]!))
      expect((sum(tokenPowers[tap]!) * outputs.length) / sum(outputs), tap).toBeCloseTo(1, 5)
    }
  })

  it('has the Hessians that the forward pass has', async () => {
    const make = (): Record<TapName, NativeHessian> => ({
      qkv: new (addon().Hessian)(spec.hiddenSize, 5),
      o: new (addon().Hessian)(spec.heads * spec.headDim, 5),
      gateUp: new (addon().Hessian)(spec.hiddenSize, 5),
      down: new (addon().Hessian)(INNER, 5),
    })
    const [there, back] = [make(), make()]
    await run(native.forward(inputs, { sequenceLength: length, taps: there }, 2))
    const options = { sequenceLength: length, taps: back }
    const result = await run(native.backward(inputs, copyOf(outputGradients), options, 2))
    expect(result).toEqual({ fisher: {}, tokenPowers: {}, weightGradients: {} })
    for (const tap of Object.keys(there) as TapName[]) {
      expect(back[tap].sequences).toBe(there[tap].sequences)
      const matrix = (hessians: typeof there) => hessians[tap].matrix().toFloat32Array()
      const samples = (hessians: typeof there) => hessians[tap].samples().toFloat32Array()
      expect(relativeError(matrix(back), matrix(there)), tap).toBeLessThan(1e-6)
      expect(relativeError(samples(back), samples(there)), tap).toBeLessThan(1e-6)
    }
  })
})

describe('weights that are not dense float32', () => {
  const { spec, weights } = randomBlock('like LLaMA')
  const tokens = 29
  const gradientsWith = async (linears: BlockWeights['linears']) => {
    const gradients = randomTensor([tokens, spec.hiddenSize], 4)
    const block = new (addon().DecoderBlock)(spec, { ...weights, linears })
    const inputs = randomTensor([tokens, spec.hiddenSize], 3)
    await run(block.backward(inputs, gradients, { sequenceLength: tokens }, 2))
    return gradients.toBytes()
  }
  const map = async (change: (weight: NativeTensor) => Promise<BlockWeights['linears']['q']>) =>
    Object.fromEntries(
      await Promise.all(
        Object.entries(weights.linears).map(async ([role, { weight }]) => [
          role,
          await change(weight as NativeTensor),
        ]),
      ),
    ) as BlockWeights['linears']

  it.each(['F16', 'BF16'] as const)('%s gives what its float32 copy gives', async (dtype) => {
    const short = await map(async (w) => ({ weight: await run(addon().convertTensor(w, dtype, 1)) }))
    const back = Object.fromEntries(
      await Promise.all(
        Object.entries(short).map(async ([role, { weight }]) => [
          role,
          { weight: await run(addon().convertTensor(weight as NativeTensor, 'F32', 1)) },
        ]),
      ),
    )
    expect(await gradientsWith(short)).toEqual(await gradientsWith(back))
  })

  it('a packed matrix gives what its dequantized one gives', async () => {
    const packed = await map(async (w) => {
      const groupBits = new Uint8Array(Math.ceil(w.shape[1]! / 8)).fill(3)
      return { weight: await run(addon().fitGroups(w, groupBits, { groupSize: 8, quantizer: 'minmax' }, 1)) }
    })
    const dense = Object.fromEntries(
      await Promise.all(
        Object.entries(packed).map(async ([role, { weight }]) => {
          if (!('dequantize' in weight)) throw new Error(`${role} is not packed`)
          return [role, { weight: await run(weight.dequantize(1)) }]
        }),
      ),
    )
    expect(await gradientsWith(packed)).toEqual(await gradientsWith(dense))
  })
})

describe('bad input of backward', () => {
  const { spec, weights } = randomBlock('like LLaMA')
  const block = new (addon().DecoderBlock)(spec, weights)
  const zeros = (...shape: number[]) => addon().allocateTensor('F32', shape)

  it('is named', async () => {
    const x = zeros(6, 20)
    const options = { sequenceLength: 6 }
    expect(() => block.backward(zeros(6, 19), x, options, 1)).toThrow(/\[tokens, 20\] of F32 for inputs/)
    expect(() => block.backward(x, zeros(6, 19), options, 1)).toThrow(/\[tokens, 20\] of F32 for gradients/)
    expect(() => block.backward(x, zeros(5, 20), options, 1)).toThrow(/another tensor .* for gradients/)
    expect(() => block.backward(x, x, options, 1)).toThrow(/another tensor .* for gradients/)
    expect(() => block.backward(x, zeros(6, 20), { sequenceLength: 0 }, 1)).toThrow(/for sequenceLength/)
    await expect(run(block.backward(x, zeros(6, 20), { sequenceLength: 4 }, 1))).rejects.toThrow(
      /divisor of the 6 tokens for sequenceLength/,
    )
  })

  it('ends when it is cancelled or disposed', async () => {
    const job = block.backward(zeros(60_000, 20), zeros(60_000, 20), { sequenceLength: 600 }, 1)
    job.cancel()
    await expect(run(job)).rejects.toMatchObject({ code: 'SLIM_ABORTED' })
    const disposed = new (addon().DecoderBlock)(spec, weights)
    disposed.dispose()
    expect(() => disposed.backward(zeros(6, 20), zeros(6, 20), { sequenceLength: 6 }, 1)).toThrow(
      expect.objectContaining({ code: 'SLIM_DISPOSED' }),
    )
  })
})
