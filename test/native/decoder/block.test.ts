import { describe, expect, it } from 'vitest'
import type { BlockSpec } from '../../../lib/architecture/index.js'
import { addon, type LinearRole, run, type TapName } from '../../../lib/native/addon.js'
import { largestDifference, randomFloats, randomTensor } from '../../support/decoder.js'
import { INNER, randomBlock, specs } from '../../support/random_block.js'
import { referenceBlock } from '../../support/reference_block.js'
import { logSoftmax, stepLogprobs } from '../../support/step.js'

const rowsOf = (values: Float32Array, width: number) =>
  Array.from({ length: values.length / width }, (_, r) =>
    Array.from(values.subarray(r * width, (r + 1) * width)),
  )

/** (2/N) Σ XᵀX over N sequences. */
function hessianOf(sequences: number[][][]): number[] {
  const size = sequences[0]![0]!.length
  const h = new Array<number>(size * size).fill(0)
  for (const x of sequences.flat())
    for (let i = 0; i < size; i++) for (let j = 0; j < size; j++) h[i * size + j]! += x[i]! * x[j]!
  return h.map((value) => (2 / sequences.length) * value)
}

describe.each(Object.keys(specs))('a block %s', (name) => {
  const { spec, weights } = randomBlock(name)
  const [sequences, length] = [3, 19]
  const values = randomFloats(sequences * length * spec.hiddenSize, 99, 2)
  const states = () => addon().tensorFrom(values, 'F32', [sequences * length, spec.hiddenSize])
  const expected = Array.from({ length: sequences }, (_, s) => {
    const size = length * spec.hiddenSize
    return referenceBlock(spec, weights, rowsOf(values.subarray(s * size, (s + 1) * size), spec.hiddenSize))
  })

  it.each(addon().instructionSets())('agrees with float64 (%s)', async (set) => {
    addon().setInstructionSet(set)
    const x = states()
    await run(new (addon().DecoderBlock)(spec, weights).forward(x, { sequenceLength: length }, 2))
    expect(largestDifference(x.toFloat32Array(), expected.map((e) => e.states).flat(2))).toBeLessThan(1e-4)
    addon().setInstructionSet(addon().instructionSets().at(-1)!)
  })

  it('taps the inputs of the linear layers and leaves the states as they are', async () => {
    const x = states()
    const sizes = { qkv: spec.hiddenSize, o: spec.heads * spec.headDim, gateUp: spec.hiddenSize, down: INNER }
    const taps = Object.fromEntries(
      Object.entries(sizes).map(([tap, size]) => [tap, new (addon().Hessian)(size, 4)]),
    ) as Record<TapName, InstanceType<ReturnType<typeof addon>['Hessian']>>
    await run(new (addon().DecoderBlock)(spec, weights).forward(x, { sequenceLength: length, taps }, 2))
    expect(x.toFloat32Array()).toEqual(values)
    for (const tap of Object.keys(sizes) as TapName[]) {
      const inputs = expected.map((e) => e.taps[tap])
      expect(taps[tap].sequences).toBe(sequences)
      const h = taps[tap].matrix().toFloat32Array()
      const reference = hessianOf(inputs)
      const scale = Math.max(...reference.map(Math.abs))
      expect(largestDifference(h, reference) / scale, tap).toBeLessThan(1e-5)
      const kept = inputs.flat().filter((_, t) => t % 4 === 0)
      expect(largestDifference(taps[tap].samples().toFloat32Array(), kept.flat()), tap).toBeLessThan(1e-4)
    }
  })
})

describe('a sequence longer than a tile', () => {
  const { spec, weights } = randomBlock('like Gemma 2')
  const length = 2500

  it('is the same as its tokens appended one part after the other', async () => {
    const { DecoderBlock, DecoderModel } = addon()
    const block = new DecoderBlock(spec, weights)
    const matrix = randomTensor([11, spec.hiddenSize], 5)
    const parts = {
      embedding: matrix,
      embeddingScale: 1,
      blocks: [block, block],
      head: matrix,
      logitSoftcap: 0,
    }
    const model = new DecoderModel(parts)
    const ids = Int32Array.from(randomFloats(length, 8), (v) => Math.floor((v + 1) * 5.5))
    const logits = await run(model.logits(ids, 2))
    const cache = model.cache(length, 'F32')
    let done = 0
    for (const end of [1100, 2040, 2400, length]) {
      const last = await stepLogprobs(model, cache, ids.subarray(done, end), 11)
      const expected = logSoftmax(logits.subarray((end - 1) * 11, end * 11))
      expect(largestDifference(last, expected)).toBeLessThan(1e-4)
      done = end
    }
  })

  it('counts as one sequence of its Hessians', async () => {
    const block = new (addon().DecoderBlock)(spec, weights)
    const x = randomTensor([2 * length, spec.hiddenSize], 9)
    const qkv = new (addon().Hessian)(spec.hiddenSize, 0)
    await run(block.forward(x, { sequenceLength: length, taps: { qkv } }, 2))
    expect(qkv.sequences).toBe(2)
  })
})

describe('a packed weight', () => {
  it('gives what its dequantized matrix gives', async () => {
    const { spec, weights } = randomBlock('like LLaMA')
    const linears = { ...weights.linears }
    const dense = { ...weights.linears }
    for (const role of Object.keys(linears) as LinearRole[]) {
      const weight = linears[role]!.weight as ReturnType<typeof randomTensor>
      const groups = Math.ceil(weight.shape[1]! / 8)
      const packed = await run(
        addon().fitGroups(weight, new Uint8Array(groups).fill(3), { groupSize: 8, quantizer: 'minmax' }, 1),
      )
      linears[role] = { weight: packed }
      dense[role] = { weight: await run(packed.dequantize(1)) }
    }
    const results = []
    for (const layers of [linears, dense]) {
      const x = randomTensor([13, spec.hiddenSize], 3)
      await run(
        new (addon().DecoderBlock)(spec, { ...weights, linears: layers }).forward(
          x,
          { sequenceLength: 13 },
          2,
        ),
      )
      results.push(x.toFloat32Array())
    }
    expect(largestDifference(results[0]!, results[1]!)).toBeLessThan(1e-6)
  })
})

describe('bad input', () => {
  const { spec, weights } = randomBlock('like LLaMA')
  const make = (changes: { spec?: object; linears?: object; norms?: object }) => () =>
    new (addon().DecoderBlock)({ ...spec, ...changes.spec } as BlockSpec, {
      linears: { ...weights.linears, ...changes.linears },
      norms: { ...weights.norms, ...changes.norms },
    })
  const zeros = (...shape: number[]) =>
    addon().tensorFrom(new Float32Array(shape.reduce((a, b) => a * b)), 'F32', shape)

  it.each([
    [
      'a missing weight',
      { linears: { k: undefined } },
      /\[12, 20\] for linears.k.weight but received nothing/,
    ],
    [
      'a wrong shape',
      { linears: { o: { weight: zeros(20, 23) } } },
      /\[20, 24\] for linears.o.weight .*\[20, 23\]/,
    ],
    [
      'matrices that do not agree',
      { linears: { down: { weight: zeros(20, 9) } } },
      /\[9, 20\] for linears.gate.weight/,
    ],
    ['a vector', { linears: { q: { weight: zeros(480) } } }, /a matrix of .* for linears.q.weight/],
    [
      'integers',
      { linears: { q: { weight: addon().tensorFrom(new Int32Array(480), 'I32', [24, 20]) } } },
      /F32, F16 or BF16 for linears.q.weight .*I32/,
    ],
    [
      'a wrong bias',
      { linears: { v: { ...weights.linears.v, bias: zeros(11) } } },
      /12 .* for linears.v.bias .*\[11\]/,
    ],
    [
      'a role of another layout',
      { linears: { qkv: { weight: zeros(48, 20) } } },
      /q, k, v, o, gate, up, down .*qkv/,
    ],
    ['a missing norm', { norms: { preMlp: undefined } }, /a norm for norms.preMlp but received nothing/],
    ['a wrong norm', { norms: { q: { weight: zeros(5) } } }, /vector of 6 .* for norms.q.weight .*\[5\]/],
    [
      'not a tensor',
      { linears: { q: { weight: {} } } },
      /native tensor or packed matrix .* for linears.q.weight/,
    ],
    ['heads that do not divide', { spec: { kvHeads: 3 } }, /a divisor of the 4 heads for spec.kvHeads/],
    [
      'an unknown activation',
      { spec: { activation: 'mish' } },
      /silu, gelu, geluTanh, relu for spec.activation .*"mish"/,
    ],
    [
      'an odd rotary dim',
      { spec: { rotary: { ...spec.rotary, dim: 3 } } },
      /even number up to 6 for spec.rotary.dim/,
    ],
    [
      'frequencies of another dim',
      { spec: { rotary: { ...spec.rotary, dim: 4 } } },
      /2 values for spec.rotary.inverse/,
    ],
    ['no size', { spec: { headDim: 0 } }, /whole number from 1 up for spec.headDim/],
  ])('is named: %s', (_, changes, message) => {
    expect(make(changes)).toThrow(
      expect.objectContaining({ code: 'SLIM_INVALID_ARGUMENT', message: expect.stringMatching(message) }),
    )
  })

  it('is named by forward', async () => {
    const block = make({})()
    const x = zeros(6, 20)
    expect(() => block.forward(zeros(6, 19), { sequenceLength: 6 }, 1)).toThrow(
      /\[tokens, 20\] of F32 for states/,
    )
    await expect(run(block.forward(x, { sequenceLength: 4 }, 1))).rejects.toThrow(
      /divisor of the 6 tokens for seq/,
    )
    expect(() => block.forward(x, { sequenceLength: 0 }, 1)).toThrow(/from 1 up for sequenceLength/)
    expect(() => block.forward(x, { sequenceLength: 6 }, 0)).toThrow(/for threads/)
    const taps = { down: new (addon().Hessian)(20, 0) }
    expect(() => block.forward(x, { sequenceLength: 6, taps }, 1)).toThrow(
      /size 37 for taps.down but received 20/,
    )
    const job = block.forward(zeros(60_000, 20), { sequenceLength: 600 }, 1) // some thirty tiles
    job.cancel()
    await expect(run(job)).rejects.toMatchObject({ code: 'SLIM_ABORTED' })
    block.dispose()
    expect(() => block.forward(x, { sequenceLength: 6 }, 1)).toThrow(
      expect.objectContaining({ code: 'SLIM_DISPOSED' }),
    )
  })
})
