/** GGUF's metadata and tensor names of the Llama family, as Hugging Face's. */
import { SlimError } from '../errors.js'
import type { GgufHeader, GgufTensor, GgufValue } from './gguf.js'
import { shapeText } from './tensor_info.js'

const BLOCK_TENSORS: Readonly<Record<string, string>> = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_output: 'self_attn.o_proj',
  ffn_norm: 'post_attention_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
}

/** Divisors of the rotary frequencies (Llama 3.1 and later); they become config.rope_scaling. */
export const ROPE_FACTORS = 'rope_freqs.weight'

export interface LlamaTensor {
  source: GgufTensor
  /** The rows come in interleaved-rotary order, of this many heads. */
  rotaryHeads?: number
}

export interface LlamaModel {
  config: Record<string, unknown>
  /** By Hugging Face's names, in the order of the forward pass. */
  tensors: Map<string, LlamaTensor>
}

/** `ropeFactors`: the values of the tensor rope_freqs.weight, if there is one. */
export function readLlama(file: string, header: GgufHeader, ropeFactors: Float32Array | null): LlamaModel {
  const { metadata, tensors } = header
  const architecture = metadata.get('general.architecture')
  const unsupported = (message: string, parameter: string) =>
    new SlimError('SLIM_UNSUPPORTED_ARCHITECTURE', `${file}: ${message}`, {
      file,
      parameter,
      remedy: 'Use the Hugging Face folder of the model instead',
    })
  if (architecture !== 'llama')
    throw unsupported(
      `the architecture ${JSON.stringify(architecture ?? null)} is not supported in GGUF files, only "llama" is`,
      'general.architecture',
    )
  if (Number(metadata.get('split.count') ?? 1) > 1)
    throw new SlimError('SLIM_UNSUPPORTED_FORMAT', `${file} is one of several parts of a model`, {
      file,
      parameter: 'split.count',
      remedy: 'Join the parts with `llama-gguf-split --merge`',
    })

  const number = (key: string, fallback: GgufValue | undefined, valid: (v: number) => boolean): number => {
    const value = metadata.get(`llama.${key}`) ?? fallback
    if (typeof value === 'number' && valid(value)) return value
    throw new SlimError('SLIM_BAD_CONFIG', `${file}: llama.${key} is ${value ?? 'missing'}`, {
      file,
      parameter: `llama.${key}`,
      received: String(value),
    })
  }
  const size = (key: string, fallback?: number) => number(key, fallback, (v) => Number.isInteger(v) && v >= 1)
  const positive = (key: string, fallback?: number) =>
    number(key, fallback, (v) => Number.isFinite(v) && v > 0)

  const hiddenSize = size('embedding_length')
  const heads = size('attention.head_count')
  const kvHeads = size('attention.head_count_kv', heads)
  const blocks = size('block_count')
  const ropeDimension = size('rope.dimension_count', Math.floor(hiddenSize / heads))
  const headDim = size('attention.key_length', ropeDimension)
  if (headDim !== ropeDimension || size('attention.value_length', headDim) !== headDim)
    throw unsupported('partly rotated heads are not supported', 'llama.rope.dimension_count')
  if (number('expert_count', 0, (v) => Number.isInteger(v) && v >= 0) > 0)
    throw unsupported('mixtures of experts are not supported', 'llama.expert_count')
  const scaling = metadata.get('llama.rope.scaling.type') ?? 'none'
  if (scaling !== 'none')
    throw unsupported(`rotary scaling ${scaling} is not supported`, 'llama.rope.scaling.type')
  const vocabulary = metadata.get('tokenizer.ggml.tokens')
  const vocabSize = Array.isArray(vocabulary)
    ? vocabulary.length
    : size('vocab_size', tensors.get('token_embd.weight')?.shape[0])
  const theta = positive('rope.freq_base', 10000)

  const names = tensorNames(blocks)
  for (const tensor of tensors.values())
    if (!names.has(tensor.name) && tensor.name !== ROPE_FACTORS)
      throw unsupported(`the tensor ${tensor.name} has no place in a Llama model`, tensor.name)
  const mapped = new Map<string, LlamaTensor>()
  for (const [name, target] of names) {
    const source = tensors.get(name)
    if (!source) continue
    const rotaryHeads = name.endsWith('attn_q.weight')
      ? heads
      : name.endsWith('attn_k.weight')
        ? kvHeads
        : undefined
    if (rotaryHeads !== undefined && (source.shape.length !== 2 || source.shape[0] !== rotaryHeads * headDim))
      throw new SlimError(
        'SLIM_TENSOR_SHAPE',
        `${file}: tensor ${name} is ${shapeText(source.shape)}; ${rotaryHeads} heads of ${headDim} need ` +
          `${shapeText([rotaryHeads * headDim, hiddenSize])}`,
        { file, tensor: name },
      )
    mapped.set(target, { source, rotaryHeads })
  }
  if (!mapped.has('model.embed_tokens.weight'))
    throw new SlimError('SLIM_TENSOR_MISSING', `There is no tensor token_embd.weight in ${file}`, {
      file,
      tensor: 'token_embd.weight',
    })

  const config: Record<string, unknown> = {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_size: hiddenSize,
    intermediate_size: size('feed_forward_length'),
    num_hidden_layers: blocks,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    max_position_embeddings: size('context_length'),
    // 1e-5 is stored as a float32, 0.00000999999974.
    rms_norm_eps: Number(positive('attention.layer_norm_rms_epsilon').toPrecision(6)),
    rope_theta: theta,
    hidden_act: 'silu',
    vocab_size: vocabSize,
    tie_word_embeddings: !mapped.has('lm_head.weight'),
    bos_token_id: metadata.get('tokenizer.ggml.bos_token_id') ?? null,
    eos_token_id: metadata.get('tokenizer.ggml.eos_token_id') ?? null,
    torch_dtype: torchDtype(mapped.get('model.embed_tokens.weight')!.source),
    attention_bias: false,
    mlp_bias: false,
  }
  if (ropeFactors) {
    const ropeScaling = llama3Scaling(ropeFactors, headDim, theta)
    if (!ropeScaling)
      throw unsupported(`${ROPE_FACTORS} holds factors that are not Llama 3's scaling`, ROPE_FACTORS)
    config.rope_scaling = ropeScaling
  }
  return { config, tensors: mapped }
}

function tensorNames(blocks: number): Map<string, string> {
  const names = new Map([['token_embd.weight', 'model.embed_tokens.weight']])
  for (let i = 0; i < blocks; ++i)
    for (const [name, target] of Object.entries(BLOCK_TENSORS))
      names.set(`blk.${i}.${name}.weight`, `model.layers.${i}.${target}.weight`)
  names.set('output_norm.weight', 'model.norm.weight')
  names.set('output.weight', 'lm_head.weight')
  return names
}

function torchDtype({ type }: GgufTensor): string {
  if (type === 'F32') return 'float32'
  return type === 'BF16' ? 'bfloat16' : 'float16'
}

/**
 * The file keeps one divisor for each frequency; Hugging Face keeps the four parameters that they come from. All
 * published models have the last three of these; the first is the largest divisor. null: that does not give them.
 */
function llama3Scaling(
  divisors: Float32Array,
  headDim: number,
  theta: number,
): Record<string, unknown> | null {
  if (divisors.length !== headDim / 2) return null
  const factor = divisors.reduce((a, b) => Math.max(a, b), 0)
  const lowFactor = 1
  const highFactor = 4
  const originalContext = 8192
  const agrees = divisors.every((divisor, i) => {
    const wavelength = 2 * Math.PI * theta ** ((2 * i) / headDim)
    const smooth = Math.min(
      1,
      Math.max(0, (originalContext / wavelength - lowFactor) / (highFactor - lowFactor)),
    )
    return Math.abs(divisor * ((1 - smooth) / factor + smooth) - 1) < 1e-4
  })
  if (!agrees) return null
  return {
    rope_type: 'llama3',
    factor,
    low_freq_factor: lowFactor,
    high_freq_factor: highFactor,
    original_max_position_embeddings: originalContext,
  }
}
