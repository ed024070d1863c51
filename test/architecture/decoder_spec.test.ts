import { existsSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { decoderSpec, supportedModelTypes } from '../../lib/architecture/index.js'
import { FAMILIES, FIXTURES, fixtureConfig } from '../support/decoder.js'
import { readSafetensors } from '../support/safetensors.js'

type Fields = Record<string, unknown>

/** The config as transformers v4 wrote it. */
function oldStyle(config: Fields): Fields {
  const { rope_parameters, dtype, layer_types, ...fields } = config
  const old: Fields = { ...fields, torch_dtype: dtype }
  if (!rope_parameters) return old
  const { rope_theta, rope_type, partial_rotary_factor, ...scaling } = rope_parameters as Fields
  if (fields.model_type === 'gpt_neox')
    return { ...old, rotary_emb_base: rope_theta, rotary_pct: partial_rotary_factor, rope_scaling: null }
  return {
    ...old,
    rope_theta,
    partial_rotary_factor,
    rope_scaling: rope_type === 'default' ? null : { ...scaling, rope_type },
  }
}

describe.each(FAMILIES)('%s', (family) => {
  it('names every tensor of the checkpoint, with its shape', () => {
    const spec = decoderSpec(fixtureConfig(family))
    const shapes = new Map<string, number[]>()
    const add = (name: string, shape: number[]) => shapes.set(name, shape)
    const vector = ({ name, bias }: { name: string; bias: boolean }, size: number) => {
      add(`${name}.weight`, [size])
      if (bias) add(`${name}.bias`, [size])
    }
    add(`${spec.embedding.name}.weight`, [spec.vocabSize, spec.hiddenSize])
    add(`${spec.head.name}.weight`, [spec.vocabSize, spec.hiddenSize])
    if (spec.positions)
      add(`${spec.positions.name}.weight`, [spec.maxPositions + spec.positions.offset, spec.hiddenSize])
    if (spec.finalNorm) vector(spec.finalNorm, spec.hiddenSize)
    for (const block of spec.blocks) {
      for (const norm of block.norms)
        vector(norm, norm.role === 'q' || norm.role === 'k' ? block.spec.headDim : spec.hiddenSize)
      for (const linear of block.linears) {
        add(`${linear.name}.weight`, [linear.rows, linear.cols])
        if (linear.bias) add(`${linear.name}.bias`, [linear.rows])
      }
    }
    const stored = readSafetensors(path.join(FIXTURES, family, 'model.safetensors'))
    const expected = Object.entries(stored).map(([name, { shape }]) => [name, shape] as const)
    expect(Object.fromEntries(shapes)).toEqual(Object.fromEntries(expected))
  })

  it('is the same from a config of transformers v4', () => {
    const config = fixtureConfig(family)
    expect(decoderSpec(oldStyle(config))).toEqual(decoderSpec(config))
  })
})

describe('families', () => {
  it('have a fixture each', () => {
    const types = new Set(FAMILIES.map((family) => fixtureConfig(family).model_type))
    expect(new Set(supportedModelTypes)).toEqual(types)
    for (const family of FAMILIES) expect(existsSync(path.join(FIXTURES, family, 'golden.json'))).toBe(true)
  })

  const windows = (config: Fields) => decoderSpec(config).blocks.map((block) => block.spec.attention.window)

  it('slide their windows where they say', () => {
    const gemma2 = { ...fixtureConfig('gemma2'), num_hidden_layers: 3, layer_types: undefined }
    expect(windows(gemma2)).toEqual([16, 0, 16])
    expect(windows({ ...gemma2, sliding_window: null })).toEqual([0, 0, 0])
    const mistral = fixtureConfig('mistral-window')
    expect(windows(mistral)).toEqual([16, 16])
    expect(windows({ ...mistral, sliding_window: null })).toEqual([0, 0])
    expect(windows({ ...mistral, sliding_window: undefined })).toEqual([4096, 4096])
    const qwen2 = {
      ...fixtureConfig('qwen2'),
      layer_types: undefined,
      sliding_window: 8,
      max_window_layers: 1,
    }
    expect(windows(qwen2)).toEqual([0, 0])
    expect(windows({ ...qwen2, use_sliding_window: true })).toEqual([0, 8])
    expect(windows({ ...fixtureConfig('phi3'), sliding_window: 2047 })).toEqual([2047, 2047])
  })

  it('take biases from the config', () => {
    const biased = decoderSpec({ ...fixtureConfig('llama'), attention_bias: true, mlp_bias: true })
    expect(biased.blocks[0]!.linears.every((linear) => linear.bias)).toBe(true)
    const qwen2 = decoderSpec(fixtureConfig('qwen2')).blocks[0]!.linears
    expect(qwen2.filter((linear) => linear.bias).map((linear) => linear.role)).toEqual(['q', 'k', 'v'])
  })

  it('scale Gemma embeddings by √hidden in the dtype of the checkpoint', () => {
    const scale = (dtype: string) =>
      decoderSpec({ ...fixtureConfig('gemma2'), hidden_size: 3584, dtype }).embedding.scale
    expect(scale('float32')).toBe(Math.fround(Math.sqrt(3584)))
    expect(scale('bfloat16')).toBe(59.75)
    expect(scale('float16')).toBe(59.875)
  })

  it('keep GPT-NeoX residuals as the config says', () => {
    const residual = (use_parallel_residual: boolean) =>
      decoderSpec({ ...fixtureConfig('gpt-neox'), use_parallel_residual }).blocks[0]!.spec.residual
    expect([residual(true), residual(false)]).toEqual(['parallel', 'sequential'])
  })
})

describe('rotary frequencies', () => {
  const frequencies = (rope_parameters: Fields) =>
    Array.from(
      decoderSpec({ ...fixtureConfig('llama'), rope_parameters }).blocks[0]!.spec.rotary!.inverseFrequencies,
    )

  it('are θ^(−2i/dim), divided by the factor of linear scaling', () => {
    const plain = frequencies({ rope_theta: 10_000 })
    const linear = frequencies({ rope_theta: 10_000, rope_type: 'linear', factor: 4 })
    const old = frequencies({ rope_theta: 10_000, type: 'linear', factor: 4 })
    plain.forEach((f, i) => {
      expect(f / 10_000 ** (-i / 8)).toBeCloseTo(1, 6)
      expect(linear[i]).toBe(f / 4)
    })
    expect(old).toEqual(linear)
  })

  it('are stretched by llama3 scaling beyond the trained wavelengths only', () => {
    const plain = frequencies({ rope_theta: 500_000 })
    const llama3 = frequencies({
      rope_theta: 500_000,
      rope_type: 'llama3',
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 64,
    })
    plain.forEach((f, i) => {
      const wavelength = (2 * Math.PI) / f
      if (wavelength < 16) expect(llama3[i]).toBe(f)
      else if (wavelength > 64) expect(llama3[i]).toBe(Math.fround(f / 8))
      else {
        const smooth = (64 / wavelength - 1) / 3
        expect(llama3[i]! / ((1 - smooth) * (f / 8) + smooth * f)).toBeCloseTo(1, 6)
      }
    })
  })
})

describe('a config that cannot be used', () => {
  const llama = fixtureConfig('llama')
  const spec = (fields: Fields) => () => decoderSpec({ ...llama, ...fields })
  const error = (code: string, message: RegExp) =>
    expect.objectContaining({ name: 'SlimError', code, message: expect.stringMatching(message) })

  it.each([
    [
      'an unknown model_type',
      { model_type: 'mamba' },
      /"mamba".*llama, mistral, qwen2, qwen3, opt, gpt_neox, gemma2, phi3/,
    ],
    ['a property of Object', { model_type: 'constructor' }, /"constructor"/],
    [
      'longrope',
      { rope_parameters: { rope_type: 'longrope' } },
      /default, linear, llama3 for rope_parameters.rope_type.*"longrope"/,
    ],
    [
      'yarn in the old style',
      { rope_parameters: null, rope_scaling: { type: 'yarn' } },
      /rope_scaling.type .*"yarn"/,
    ],
    ['an unknown activation', { hidden_act: 'mish' }, /hidden_act .*"mish"/],
    ['OPT-350m', { ...fixtureConfig('opt'), do_layer_norm_before: false }, /do_layer_norm_before/],
    ['projected embeddings', { ...fixtureConfig('opt'), word_embed_proj_dim: 32 }, /word_embed_proj_dim/],
    [
      'bidirectional attention',
      { ...fixtureConfig('gemma2'), use_bidirectional_attention: true },
      /use_bidirectional/,
    ],
    [
      'an odd rotary share',
      { ...fixtureConfig('gpt-neox'), rope_parameters: { partial_rotary_factor: 0.2 } },
      /partial_rotary_factor/,
    ],
    [
      'other attention types',
      { ...fixtureConfig('qwen3'), layer_types: ['linear_attention', 'full_attention'] },
      /layer_types/,
    ],
  ])('is unsupported: %s', (_, fields, message) => {
    expect(spec(fields)).toThrow(error('SLIM_UNSUPPORTED_ARCHITECTURE', message))
  })

  it.each([
    [
      'no model_type',
      { model_type: undefined },
      /a string for model_type in config.json but received nothing/,
    ],
    ['no hidden size', { hidden_size: undefined }, /a whole number from 1 up for hidden_size .* nothing/],
    ['a size that is a string', { num_hidden_layers: '2' }, /num_hidden_layers .* received "2"/],
    ['a fraction', { vocab_size: 1.5 }, /vocab_size .* received 1.5/],
    ['a negative size', { intermediate_size: -1 }, /intermediate_size .* received -1/],
    [
      'heads that do not divide',
      { num_attention_heads: 5, head_dim: undefined },
      /a divisor of hidden_size 64 for num_attention_heads/,
    ],
    [
      'kv heads that do not divide',
      { num_key_value_heads: 3 },
      /a divisor of num_attention_heads 4 for num_key_value_heads/,
    ],
    ['a string for a flag', { attention_bias: 'no' }, /true or false for attention_bias/],
    ['ε = 0', { rms_norm_eps: 0 }, /above 0 for rms_norm_eps/],
    ['rope_parameters that is a list', { rope_parameters: [] }, /an object for rope_parameters/],
    [
      'linear scaling without a factor',
      { rope_parameters: { rope_type: 'linear' } },
      /rope_parameters.factor .* nothing/,
    ],
    [
      'a layer_types of the wrong length',
      { ...fixtureConfig('qwen3'), layer_types: ['full_attention'] },
      /a list of 2/,
    ],
  ])('is bad: %s', (_, fields, message) => {
    expect(spec(fields)).toThrow(error('SLIM_BAD_CONFIG', message))
  })
})
