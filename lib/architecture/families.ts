/** The model families as data, by `model_type`: adding one is adding one entry to FAMILIES. */
import type { LinearRole, NormRole } from '../native/addon.js'
import type { Config } from './config.js'
import { rotary } from './rotary.js'
import type { BlockSpec } from './spec.js'

/** What a config and its family say of a model; blocks differ by their window alone. */
export interface FamilyModel {
  vocabSize: number
  hiddenSize: number
  intermediateSize: number
  layers: number
  maxPositions: number
  block: Omit<BlockSpec, 'attention'> & { attention: Omit<BlockSpec['attention'], 'window'> }
  /** Sliding window of a block; 0: none. */
  window: (index: number) => number
  /** Modules of a block under `prefix`.N; their order is the order of quantization. */
  prefix: string
  linears: Partial<Record<LinearRole, string>>
  norms: Partial<Record<NormRole, string>>
  /** Whether norms have a bias (layer norms of all families do). */
  normBias: boolean
  bias: { qkv: boolean; o: boolean; mlp: boolean }
  embedding: { name: string; scale: number }
  positions: { name: string; offset: number } | null
  finalNorm: string | null
  head: string
  tied: boolean
  logitSoftcap: number
}

const ACTIVATIONS: Readonly<Record<string, BlockSpec['activation']>> = {
  silu: 'silu',
  swish: 'silu',
  gelu: 'gelu',
  gelu_new: 'geluTanh',
  gelu_pytorch_tanh: 'geluTanh',
  relu: 'relu',
}

const GATED = { gate: 'mlp.gate_proj', up: 'mlp.up_proj', down: 'mlp.down_proj' } as const
const ATTENTION = {
  q: 'self_attn.q_proj',
  k: 'self_attn.k_proj',
  v: 'self_attn.v_proj',
  o: 'self_attn.o_proj',
} as const

/** Sizes that every family names alike. */
function sizes(config: Config) {
  const hiddenSize = config.size('hidden_size')
  const heads = config.size('num_attention_heads')
  if (config.get('head_dim') === undefined && hiddenSize % heads !== 0)
    config.fail('num_attention_heads', `a divisor of hidden_size ${hiddenSize}`)
  return {
    vocabSize: config.size('vocab_size'),
    hiddenSize,
    layers: config.size('num_hidden_layers'),
    maxPositions: config.size('max_position_embeddings'),
    heads,
    headDim: config.size('head_dim', hiddenSize / heads),
  }
}

/** LLaMA and its descendants: RMS norm, rotary positions, gated MLP. */
function llama(config: Config): FamilyModel {
  const { heads, headDim, ...common } = sizes(config)
  const kvHeads = config.size('num_key_value_heads', heads)
  if (heads % kvHeads !== 0) config.fail('num_key_value_heads', `a divisor of num_attention_heads ${heads}`)
  const attentionBias = config.boolean('attention_bias', false)
  return {
    ...common,
    intermediateSize: config.size('intermediate_size'),
    block: {
      hiddenSize: common.hiddenSize,
      heads,
      kvHeads,
      headDim,
      norm: { kind: 'rms', eps: config.positive('rms_norm_eps', 1e-6), unitOffset: false },
      rotary: rotary(config, headDim),
      attention: { scale: headDim ** -0.5, softcap: 0 },
      qkvLayout: 'separate',
      activation: config.oneOf('hidden_act', ACTIVATIONS, 'silu'),
      mlp: 'gated',
      residual: 'sequential',
    },
    window: () => 0,
    prefix: 'model.layers',
    linears: { ...ATTENTION, ...GATED },
    norms: { input: 'input_layernorm', preMlp: 'post_attention_layernorm' },
    normBias: false,
    bias: { qkv: attentionBias, o: attentionBias, mlp: config.boolean('mlp_bias', false) },
    embedding: { name: 'model.embed_tokens', scale: 1 },
    positions: null,
    finalNorm: 'model.norm',
    head: 'lm_head',
    tied: config.boolean('tie_word_embeddings', false),
    logitSoftcap: 0,
  }
}

/** `sliding_window`; null: none. */
function slidingWindow(config: Config, fallback?: number): number {
  if (config.isNull('sliding_window') || (config.get('sliding_window') === undefined && !fallback)) return 0
  return config.size('sliding_window', fallback)
}

/** The window of the blocks that `layer_types` calls sliding, or, without such a list, of those that `slides` names. */
function windowByLayer(
  config: Config,
  window: number,
  slides: (index: number) => boolean,
): (index: number) => number {
  const types = config.get('layer_types')
  if (types === undefined) return (index) => (slides(index) ? window : 0)
  const kinds = ['full_attention', 'sliding_attention']
  if (!Array.isArray(types) || types.length !== config.size('num_hidden_layers'))
    config.fail('layer_types', `a list of ${config.size('num_hidden_layers')} attention types`)
  if (!types.every((type) => kinds.includes(type)))
    throw config.unsupported('layer_types', `a list of ${kinds.join(' and ')}`)
  return (index) => (types[index] === 'sliding_attention' ? window : 0)
}

function mistral(config: Config): FamilyModel {
  const window = slidingWindow(config, 4096)
  return { ...llama(config), window: () => window }
}

function qwen2(config: Config): FamilyModel {
  const model = llama(config)
  const window = config.boolean('use_sliding_window', false) ? slidingWindow(config, 4096) : 0
  const firstSliding = config.number('max_window_layers', 28)
  return {
    ...model,
    window: windowByLayer(config, window, (index) => index >= firstSliding),
    bias: { qkv: true, o: false, mlp: false },
  }
}

function qwen3(config: Config): FamilyModel {
  const model = qwen2(config)
  const bias = config.boolean('attention_bias', false)
  return {
    ...model,
    norms: { ...model.norms, q: 'self_attn.q_norm', k: 'self_attn.k_norm' },
    bias: { qkv: bias, o: bias, mlp: false },
  }
}

/** √hidden as the dtype of the checkpoint holds it: the embeddings were scaled by that in training. */
function embeddingScale(config: Config, hiddenSize: number): number {
  const dtype = config.get('dtype') ?? config.get('torch_dtype')
  const mantissaBits = dtype === 'bfloat16' ? 8 : dtype === 'float16' ? 11 : 24
  const exact = Math.sqrt(hiddenSize)
  const unit = 2 ** (Math.floor(Math.log2(exact)) + 1 - mantissaBits)
  return Math.round(exact / unit) * unit
}

function gemma2(config: Config): FamilyModel {
  const model = llama(config)
  if (config.boolean('use_bidirectional_attention', false))
    throw config.unsupported('use_bidirectional_attention', 'false')
  return {
    ...model,
    block: {
      ...model.block,
      norm: { ...model.block.norm, unitOffset: true },
      attention: {
        scale: config.positive('query_pre_attn_scalar', 256) ** -0.5,
        softcap: softcap(config, 'attn_logit_softcapping', 50),
      },
      activation: config.oneOf('hidden_activation', ACTIVATIONS, 'gelu_pytorch_tanh'),
    },
    window: windowByLayer(config, slidingWindow(config, 4096), (index) => index % 2 === 0),
    norms: {
      input: 'input_layernorm',
      postAttention: 'post_attention_layernorm',
      preMlp: 'pre_feedforward_layernorm',
      postMlp: 'post_feedforward_layernorm',
    },
    embedding: { name: 'model.embed_tokens', scale: embeddingScale(config, model.hiddenSize) },
    tied: config.boolean('tie_word_embeddings', true),
    logitSoftcap: softcap(config, 'final_logit_softcapping', 30),
  }
}

/** null: no cap. */
function softcap(config: Config, name: string, fallback: number): number {
  return config.isNull(name) ? 0 : config.positive(name, fallback)
}

function phi3(config: Config): FamilyModel {
  const model = llama(config)
  const window = slidingWindow(config)
  return {
    ...model,
    block: {
      ...model.block,
      norm: { ...model.block.norm, eps: config.positive('rms_norm_eps', 1e-5) },
      qkvLayout: 'stacked',
      mlp: 'gatedStacked',
    },
    window: () => window,
    linears: { qkv: 'self_attn.qkv_proj', o: ATTENTION.o, gateUp: 'mlp.gate_up_proj', down: GATED.down },
    bias: { qkv: false, o: false, mlp: false },
  }
}

function opt(config: Config): FamilyModel {
  const { heads, headDim, ...common } = sizes(config)
  if (!config.boolean('do_layer_norm_before', true)) throw config.unsupported('do_layer_norm_before', 'true')
  if (!config.boolean('layer_norm_elementwise_affine', true))
    throw config.unsupported('layer_norm_elementwise_affine', 'true')
  if (config.size('word_embed_proj_dim', common.hiddenSize) !== common.hiddenSize)
    throw config.unsupported('word_embed_proj_dim', `hidden_size ${common.hiddenSize}`)
  const bias = config.boolean('enable_bias', true)
  return {
    ...common,
    intermediateSize: config.size('ffn_dim'),
    block: {
      hiddenSize: common.hiddenSize,
      heads,
      kvHeads: heads,
      headDim,
      norm: { kind: 'layer', eps: 1e-5, unitOffset: false },
      rotary: null,
      attention: { scale: headDim ** -0.5, softcap: 0 },
      qkvLayout: 'separate',
      activation: config.oneOf('activation_function', ACTIVATIONS, 'relu'),
      mlp: 'plain',
      residual: 'sequential',
    },
    window: () => 0,
    prefix: 'model.decoder.layers',
    linears: { ...ATTENTION, o: 'self_attn.out_proj', up: 'fc1', down: 'fc2' },
    norms: { input: 'self_attn_layer_norm', preMlp: 'final_layer_norm' },
    normBias: true,
    bias: { qkv: bias, o: bias, mlp: bias },
    embedding: { name: 'model.decoder.embed_tokens', scale: 1 },
    positions: { name: 'model.decoder.embed_positions', offset: 2 },
    finalNorm: config.boolean('_remove_final_layer_norm', false) ? null : 'model.decoder.final_layer_norm',
    head: 'lm_head',
    tied: config.boolean('tie_word_embeddings', true),
    logitSoftcap: 0,
  }
}

function gptNeox(config: Config): FamilyModel {
  const { heads, headDim, ...common } = sizes(config)
  const attentionBias = config.boolean('attention_bias', true)
  return {
    ...common,
    intermediateSize: config.size('intermediate_size'),
    block: {
      hiddenSize: common.hiddenSize,
      heads,
      kvHeads: heads,
      headDim,
      norm: { kind: 'layer', eps: config.positive('layer_norm_eps', 1e-5), unitOffset: false },
      rotary: rotary(config, headDim, {
        theta: 'rotary_emb_base',
        partial: 'rotary_pct',
        defaultPartial: 0.25,
      }),
      attention: { scale: headDim ** -0.5, softcap: 0 },
      qkvLayout: 'perHead',
      activation: config.oneOf('hidden_act', ACTIVATIONS, 'gelu'),
      mlp: 'plain',
      residual: config.boolean('use_parallel_residual', true) ? 'parallel' : 'sequential',
    },
    window: () => 0,
    prefix: 'gpt_neox.layers',
    linears: {
      qkv: 'attention.query_key_value',
      o: 'attention.dense',
      up: 'mlp.dense_h_to_4h',
      down: 'mlp.dense_4h_to_h',
    },
    norms: { input: 'input_layernorm', preMlp: 'post_attention_layernorm' },
    normBias: true,
    bias: { qkv: attentionBias, o: attentionBias, mlp: true },
    embedding: { name: 'gpt_neox.embed_in', scale: 1 },
    positions: null,
    finalNorm: 'gpt_neox.final_layer_norm',
    head: 'embed_out',
    tied: config.boolean('tie_word_embeddings', false),
    logitSoftcap: 0,
  }
}

export const FAMILIES: Readonly<Record<string, (config: Config) => FamilyModel>> = {
  llama,
  mistral,
  qwen2,
  qwen3,
  opt,
  gpt_neox: gptNeox,
  gemma2,
  phi3,
}
