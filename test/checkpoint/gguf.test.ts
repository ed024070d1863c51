import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js'
import { loadTokenizer } from '../../lib/runtime/tokenizer.js'
import { expectSlimError } from '../support/expect_error.js'
import {
  decodeValues,
  encodeGguf,
  encodeValues,
  type GgufInput,
  type GgufTensorInput,
  type GgufType,
  type MetadataInput,
  writeGguf,
} from '../support/gguf.js'
import { goldenBlocks, tiled } from '../support/golden_blocks.js'
import { floatToHalf, halfToFloat } from '../support/half.js'
import { temporaryFolder } from '../support/temporary.js'
import { TINY, tinyLlama } from '../support/tiny_llama.js'

const folder = temporaryFolder()
let files = 0
const newFile = () => path.join(folder, `${++files}.gguf`)

/** The tiny model with metadata set (or removed: null) and tensors changed. */
function changed(
  metadata: Record<string, MetadataInput | null>,
  tensors: (list: GgufTensorInput[]) => GgufTensorInput[] = (list) => list,
): GgufInput {
  const { input } = tinyLlama()
  const kept = input.metadata.filter(([key]) => metadata[key] === undefined)
  const set = Object.entries(metadata).flatMap(([key, v]) => (v ? [[key, v] as [string, MetadataInput]] : []))
  return { metadata: [...kept, ...set], tensors: tensors(input.tensors) }
}

const withTensor = (name: string, change: Partial<GgufTensorInput>) =>
  changed({}, (list) => list.map((t) => (t.name === name ? { ...t, ...change } : t)))

async function expectFailure(input: GgufInput, ...expected: unknown[]) {
  const file = writeGguf(newFile(), input)
  const [code, fields, ...words] = expected as [
    Parameters<typeof expectSlimError>[1],
    object | undefined,
    ...string[],
  ]
  await expectSlimError(() => openCheckpoint(file), code, { file, ...fields }, ...words)
}

describe('a good file', () => {
  it('has the configuration of a Hugging Face folder', async () => {
    using checkpoint = await openCheckpoint(writeGguf(newFile(), tinyLlama().input))
    expect(checkpoint.format).toBe('gguf')
    expect(checkpoint.config).toEqual({
      architectures: ['LlamaForCausalLM'],
      model_type: 'llama',
      hidden_size: TINY.hidden,
      intermediate_size: TINY.feedForward,
      num_hidden_layers: TINY.blocks,
      num_attention_heads: TINY.heads,
      num_key_value_heads: TINY.kvHeads,
      head_dim: TINY.headDim,
      max_position_embeddings: 128,
      rms_norm_eps: 1e-5,
      rope_theta: 50000,
      hidden_act: 'silu',
      vocab_size: TINY.vocab,
      tie_word_embeddings: true,
      bos_token_id: 0,
      eos_token_id: 1,
      torch_dtype: 'float16',
      attention_bias: false,
      mlp_bias: false,
    })
  })

  for (const type of ['F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_1'] as GgufType[])
    it(`gives ${type} tensors in Hugging Face's row order`, async () => {
      const names = ['token_embd', 'blk.0.attn_q', 'blk.0.attn_k', 'blk.0.attn_v', 'blk.0.ffn_down']
      const { input, expected } = tinyLlama(Object.fromEntries(names.map((name) => [name, type])))
      using checkpoint = await openCheckpoint(writeGguf(newFile(), input), { threads: 2 })
      const isBlock = type.startsWith('Q')
      for (const [name, { type: stored, shape, values }] of expected) {
        const tensor = await checkpoint.requireTensor(name, shape)
        const isStoredBlock = stored.startsWith('Q')
        expect(tensor.dtype).toBe(isStoredBlock ? 'F16' : stored)
        expect(checkpoint.tensors.get(name)).toMatchObject({
          dtype: tensor.dtype,
          storedDtype: stored,
          shape,
        })
        // Rows are a multiple of a block here, so encoding commutes with the permutation.
        const decoded = decodeValues(stored, encodeValues(stored, values))
        const reference = isStoredBlock ? decoded.map((v) => halfToFloat(floatToHalf(v))) : decoded
        expect([...tensor.toFloat32Array()]).toEqual(reference)
        const chunks: Uint8Array[] = []
        for await (const chunk of checkpoint.tensorBytes(name)) chunks.push(chunk)
        expect(Buffer.concat(chunks).equals(tensor.toBytes())).toBe(true)
        tensor.dispose()
      }
      expect(checkpoint.config.torch_dtype).toBe(
        isBlock || type === 'F16' ? 'float16' : type === 'BF16' ? 'bfloat16' : 'float32',
      )
    })

  it.each(goldenBlocks())('decodes %s to float16', async (type, { blockElements, bytes, values }) => {
    // Feed-forward layers as wide as a super-block.
    const width = 256
    const rows = (name: string, shape: number[], tensorType: string): GgufTensorInput => {
      const count = shape[0]! * shape[1]!
      const isBlock = tensorType === type
      const blockBytes = (bytes.length / values.length) * count
      return { name, type: tensorType, shape, bytes: tiled(bytes, isBlock ? blockBytes : 4 * count) }
    }
    const zeros = (tensor: GgufTensorInput) => ({ ...tensor, bytes: new Uint8Array(tensor.bytes.length) })
    const input = changed({ 'llama.feed_forward_length': ['u32', width] }, (list) =>
      list.map((tensor) => {
        if (tensor.name === 'blk.0.ffn_down.weight') return rows(tensor.name, [TINY.hidden, width], type)
        if (!/ffn_(gate|up)/.test(tensor.name)) return tensor
        return zeros(rows(tensor.name, [width, TINY.hidden], 'F32'))
      }),
    )
    using checkpoint = await openCheckpoint(writeGguf(newFile(), input), { threads: 2 })
    const name = 'model.layers.0.mlp.down_proj.weight'
    expect(checkpoint.tensors.get(name)).toMatchObject({ dtype: 'F16', storedDtype: type })
    expect(width % blockElements).toBe(0)
    const tensor = await checkpoint.requireTensor(name, [TINY.hidden, width])
    const expected = tiled(values, TINY.hidden * width).map((v) => halfToFloat(floatToHalf(v)))
    expect(tensor.toFloat32Array()).toEqual(expected)
    tensor.dispose()
  })

  it('has an output head of its own if there is one', async () => {
    const head = { name: 'output.weight', type: 'F32', shape: [TINY.vocab, TINY.hidden] }
    const bytes = new Uint8Array(4 * TINY.vocab * TINY.hidden)
    const input = changed({}, (list) => [...list, { ...head, bytes }])
    using checkpoint = await openCheckpoint(writeGguf(newFile(), input))
    expect(checkpoint.config.tie_word_embeddings).toBe(false)
    expect(checkpoint.tensors.has('lm_head.weight')).toBe(true)
  })

  it('has a tokenizer', async () => {
    using checkpoint = await openCheckpoint(writeGguf(newFile(), tinyLlama().input))
    const tokenizer = loadTokenizer(checkpoint)
    // Digits and words apart; "the" from two merges; control and user-defined tokens known in the text.
    expect([...tokenizer.encode('the the1<user></s>')]).toEqual([260, 261, 3 + '1'.charCodeAt(0), 2, 1])
    expect(tokenizer.decode([260, 261, 2, 1])).toBe('the the<user></s>')
    expect(tokenizer.decode([260, 261, 2, 1], { skipSpecialTokens: true })).toBe('the the<user>')
    expect([tokenizer.bosTokenId, tokenizer.eosTokenIds, tokenizer.vocabSize]).toEqual([0, [1], TINY.vocab])
    expect(checkpoint.tokenizer!.config).toMatchObject({
      bos_token: '<s>',
      eos_token: '</s>',
      chat_template: '{{ messages }}',
      model_max_length: 128,
    })
    const names = (await checkpoint.auxiliary()).map(({ name }) => name)
    expect(names).toEqual(['tokenizer.json', 'tokenizer_config.json'])
  })

  it('has a tokenizer that puts a first token where the metadata say so', async () => {
    const input = changed({ 'tokenizer.ggml.add_bos_token': ['bool', true] })
    using checkpoint = await openCheckpoint(writeGguf(newFile(), input))
    const tokenizer = loadTokenizer(checkpoint)
    expect([...tokenizer.encode('the', { addSpecialTokens: true })]).toEqual([0, 260])
    expect([...tokenizer.encode('the')]).toEqual([260])
  })

  it('has no tokenizer', async () => {
    const without = Object.fromEntries(
      tinyLlama()
        .input.metadata.filter(([key]) => key.startsWith('tokenizer'))
        .map(([key]) => [key, null]),
    )
    using checkpoint = await openCheckpoint(writeGguf(newFile(), changed(without)))
    expect(checkpoint.tokenizer).toBeNull()
    expect(checkpoint.config.vocab_size).toBe(TINY.vocab)
    await expectSlimError(() => loadTokenizer(checkpoint), 'SLIM_FILE_NOT_FOUND', { file: checkpoint.path })
  })

  it("turns the divisors of Llama 3's rotary scaling back into its parameters", async () => {
    const theta = 50000
    const divisor = (i: number) => {
      const wavelength = 2 * Math.PI * theta ** ((2 * i) / TINY.headDim)
      if (wavelength < 8192 / 4) return 1
      if (wavelength > 8192) return 8
      const smooth = (8192 / wavelength - 1) / 3
      return 1 / ((1 - smooth) / 8 + smooth)
    }
    const divisors = Array.from({ length: TINY.headDim / 2 }, (_, i) => divisor(i))
    expect(divisors.some((d) => d > 1 && d < 8)).toBe(true)
    const withDivisors = (values: number[]) =>
      changed({}, (list) => [
        ...list,
        {
          name: 'rope_freqs.weight',
          type: 'F32',
          shape: [values.length],
          bytes: encodeValues('F32', values),
        },
      ])
    using checkpoint = await openCheckpoint(writeGguf(newFile(), withDivisors(divisors)))
    expect(checkpoint.config.rope_scaling).toEqual({
      rope_type: 'llama3',
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    })
    expect(checkpoint.tensors.has('rope_freqs.weight')).toBe(false)
    await expectFailure(
      withDivisors(divisors.map((d, i) => (i === 3 ? d * 1.01 : d))),
      'SLIM_UNSUPPORTED_ARCHITECTURE',
      { parameter: 'rope_freqs.weight' },
    )
  })
})

describe('a bad file', () => {
  it('is cut short, wherever it is cut', async () => {
    const whole = encodeGguf(tinyLlama().input)
    const file = newFile()
    for (let i = 0; i < 60; ++i) {
      writeFileSync(file, whole.subarray(0, Math.floor((i / 60) * (whole.length - 1))))
      await expectSlimError(() => openCheckpoint(file), 'SLIM_FILE_TRUNCATED', { file })
    }
  })

  it('is cut inside a tensor, which the error names', async () => {
    const file = writeGguf(newFile(), tinyLlama().input)
    truncateSync(file, readFileSync(file).length - 200)
    await expectSlimError(
      () => openCheckpoint(file),
      'SLIM_FILE_TRUNCATED',
      { file, tensor: 'output_norm.weight' },
      'cut short',
    )
  })

  it('is no GGUF file', async () => {
    const file = newFile()
    writeFileSync(file, 'GGML and so on')
    await expectSlimError(() => openCheckpoint(file), 'SLIM_BAD_HEADER', { file }, 'GGUF')
  })

  it('survives any byte of its header being overwritten', async () => {
    const { input } = tinyLlama()
    const whole = encodeGguf(input)
    const headerBytes =
      whole.length - input.tensors.reduce((sum, t) => sum + Math.ceil(t.bytes.length / 32) * 32, 0)
    const file = newFile()
    for (let i = 0; i < headerBytes; i += 13) {
      const damaged = Buffer.from(whole)
      damaged[i] = 0xff
      writeFileSync(file, damaged)
      try {
        using checkpoint = await openCheckpoint(file)
        for (const name of checkpoint.tensors.keys()) (await checkpoint.tensor(name)).dispose()
        void checkpoint.tokenizer
      } catch (error) {
        expect(error).toMatchObject({ name: 'SlimError', file })
      }
    }
  })

  const good = tinyLlama().input
  const headerCases: [string, GgufInput, string, object?, string?][] = [
    ['has a version of the future', { ...good, version: 4 }, 'SLIM_UNSUPPORTED_FORMAT', {}, '4'],
    ['is big-endian', { ...good, version: 0x03000000 }, 'SLIM_UNSUPPORTED_FORMAT', {}, 'big-endian'],
    ['claims 2^64 - 1 tensors', { ...good, tensorCount: 2n ** 64n - 1n }, 'SLIM_BAD_HEADER'],
    ['claims 2^63 metadata keys', { ...good, keyCount: 2n ** 63n }, 'SLIM_BAD_HEADER'],
    ['claims more tensors than it has', { ...good, tensorCount: 200_000 }, 'SLIM_BAD_HEADER'],
    [
      'has a string of 2^40 bytes',
      changed({ x: ['raw', Buffer.from([8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0])] }),
      'SLIM_BAD_HEADER',
    ],
    [
      'has an array of 2^40 elements',
      changed({ x: ['raw', Buffer.from([9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0])] }),
      'SLIM_BAD_HEADER',
      {},
      'x',
    ],
    [
      'nests arrays without end',
      changed({
        x: [
          'raw',
          Buffer.concat(Array(9).fill(Buffer.from([9, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]))),
        ],
      }),
      'SLIM_BAD_HEADER',
    ],
    [
      'has an unknown value type',
      changed({ x: ['raw', Buffer.from([77, 0, 0, 0])] }),
      'SLIM_BAD_HEADER',
      {},
      '77',
    ],
    [
      'has a string that is not UTF-8',
      changed({
        x: ['raw', Buffer.concat([Buffer.from([8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]), Buffer.from([0xff])])],
      }),
      'SLIM_BAD_HEADER',
      {},
      'UTF-8',
    ],
    [
      'names a metadata key twice',
      { ...good, metadata: [...good.metadata, ['llama.block_count', ['u32', 2]]] },
      'SLIM_BAD_HEADER',
      {},
      'llama.block_count',
    ],
    [
      'has an alignment of zero',
      changed({ 'general.alignment': ['u32', 0] }),
      'SLIM_BAD_HEADER',
      {},
      'general.alignment',
    ],
    [
      'names a tensor twice',
      changed({}, (list) => [...list, { ...list[1]!, offset: undefined }]),
      'SLIM_BAD_HEADER',
      { tensor: 'blk.0.attn_norm.weight' },
    ],
    [
      'has a tensor of five dimensions',
      withTensor('output_norm.weight', { shape: [1, 1, 1, 1, 64] }),
      'SLIM_BAD_HEADER',
      { tensor: 'output_norm.weight' },
    ],
    [
      'has a tensor whose shape overflows',
      withTensor('output_norm.weight', { shape: [2 ** 40, 2 ** 40] }),
      'SLIM_BAD_HEADER',
      { tensor: 'output_norm.weight' },
    ],
    [
      'has blocks that do not fill a row',
      withTensor('blk.0.attn_output.weight', { shape: [64, 40] }),
      'SLIM_BAD_HEADER',
      { tensor: 'blk.0.attn_output.weight' },
    ],
    [
      'has super-blocks that do not fill a row',
      withTensor('blk.0.attn_output.weight', { typeId: 12 }),
      'SLIM_BAD_HEADER',
      { tensor: 'blk.0.attn_output.weight' },
      'Q4_K',
    ],
    [
      'has a tensor that is not aligned',
      withTensor('output_norm.weight', { offset: 33 }),
      'SLIM_BAD_HEADER',
      { tensor: 'output_norm.weight' },
    ],
    [
      'has overlapping tensors',
      withTensor('blk.0.attn_q.weight', { offset: 0 }),
      'SLIM_TENSOR_OVERLAP',
      {},
      'blk.0.attn_q.weight',
    ],
    [
      'has a tensor beyond its end',
      withTensor('output_norm.weight', { offset: 2 ** 52 }),
      'SLIM_FILE_TRUNCATED',
      { tensor: 'output_norm.weight' },
    ],
    [
      'has a tensor of an unsupported type',
      withTensor('blk.0.ffn_up.weight', { typeId: 16 }),
      'SLIM_TENSOR_DTYPE',
      { tensor: 'blk.0.ffn_up.weight' },
      'IQ2_XXS',
    ],
    [
      'has a tensor of an unknown type',
      withTensor('blk.0.ffn_up.weight', { typeId: 999 }),
      'SLIM_TENSOR_DTYPE',
      { tensor: 'blk.0.ffn_up.weight' },
      '999',
    ],
  ]
  for (const [what, input, ...expected] of headerCases) it(what, () => expectFailure(input, ...expected))

  const modelCases: [string, GgufInput, string, object?, string?][] = [
    [
      'has another architecture',
      changed({ 'general.architecture': ['string', 'mamba'] }),
      'SLIM_UNSUPPORTED_ARCHITECTURE',
      {},
      'mamba',
    ],
    ['has no architecture', changed({ 'general.architecture': null }), 'SLIM_UNSUPPORTED_ARCHITECTURE'],
    [
      'is one part of several',
      changed({ 'split.count': ['u32', 3] }),
      'SLIM_UNSUPPORTED_FORMAT',
      {},
      '--merge',
    ],
    ['has experts', changed({ 'llama.expert_count': ['u32', 8] }), 'SLIM_UNSUPPORTED_ARCHITECTURE'],
    [
      'has scaled rotary embeddings',
      changed({ 'llama.rope.scaling.type': ['string', 'yarn'] }),
      'SLIM_UNSUPPORTED_ARCHITECTURE',
      {},
      'yarn',
    ],
    [
      'has partly rotated heads',
      changed({ 'llama.rope.dimension_count': ['u32', 8], 'llama.attention.key_length': ['u32', 16] }),
      'SLIM_UNSUPPORTED_ARCHITECTURE',
    ],
    [
      'lacks a size',
      changed({ 'llama.block_count': null }),
      'SLIM_BAD_CONFIG',
      { parameter: 'llama.block_count' },
    ],
    [
      'has a size that is no number',
      changed({ 'llama.embedding_length': ['string', '64'] }),
      'SLIM_BAD_CONFIG',
      { parameter: 'llama.embedding_length' },
    ],
    [
      'has a size of zero',
      changed({ 'llama.attention.head_count': ['u32', 0] }),
      'SLIM_BAD_CONFIG',
      { parameter: 'llama.attention.head_count' },
    ],
    [
      'has heads that do not fit the q projection',
      changed({ 'llama.attention.head_count': ['u32', 2], 'llama.rope.dimension_count': ['u32', 16] }),
      'SLIM_TENSOR_SHAPE',
      { tensor: 'blk.0.attn_q.weight' },
    ],
    [
      'has a tensor that Llama has not',
      changed({}, (list) => [
        ...list,
        { name: 'blk.0.attn_q.bias', type: 'F32', shape: [8], bytes: new Uint8Array(32) },
      ]),
      'SLIM_UNSUPPORTED_ARCHITECTURE',
      {},
      'blk.0.attn_q.bias',
    ],
    [
      'has no embedding',
      changed({}, (list) => list.filter((t) => t.name !== 'token_embd.weight')),
      'SLIM_TENSOR_MISSING',
      { tensor: 'token_embd.weight' },
    ],
  ]
  for (const [what, input, ...expected] of modelCases) it(what, () => expectFailure(input, ...expected))

  const tokenizerCases: [string, GgufInput, string, string][] = [
    [
      'is SentencePiece',
      changed({ 'tokenizer.ggml.model': ['string', 'llama'] }),
      'SLIM_UNSUPPORTED_TOKENIZER',
      'model',
    ],
    [
      'splits words in an unknown way',
      changed({ 'tokenizer.ggml.pre': ['string', 'toString'] }),
      'SLIM_UNSUPPORTED_TOKENIZER',
      'pre',
    ],
    ['has no merges', changed({ 'tokenizer.ggml.merges': null }), 'SLIM_BAD_CONFIG', 'merges'],
    [
      'ends texts with a token it has not',
      changed({ 'tokenizer.ggml.eos_token_id': ['u32', 99999] }),
      'SLIM_BAD_CONFIG',
      'eos_token_id',
    ],
  ]
  for (const [what, input, code, key] of tokenizerCases)
    it(`has a tokenizer that ${what}`, async () => {
      const file = writeGguf(newFile(), input)
      using checkpoint = await openCheckpoint(file)
      await expectSlimError(() => checkpoint.tokenizer, code as 'SLIM_BAD_CONFIG', {
        file,
        parameter: `tokenizer.ggml.${key}`,
      })
    })

  it('is asked for a tensor it has not, with another shape, or after it is disposed', async () => {
    const file = writeGguf(newFile(), tinyLlama().input)
    const checkpoint = await openCheckpoint(file)
    await expectSlimError(() => checkpoint.tensor('nothing'), 'SLIM_TENSOR_MISSING', {
      file,
      tensor: 'nothing',
    })
    const tensor = 'model.norm.weight'
    await expectSlimError(
      () => checkpoint.requireTensor(tensor, [65]),
      'SLIM_TENSOR_SHAPE',
      { file, tensor },
      '[65]',
      '[64]',
    )
    const kept = await checkpoint.tensor(tensor)
    checkpoint.dispose()
    checkpoint.dispose()
    await expectSlimError(() => checkpoint.tensor(tensor), 'SLIM_DISPOSED', { file })
    expect(kept.toFloat32Array().length).toBe(64)
  })
})
