/** A tiny Llama with made-up weights, as a GGUF file whose q and k rows are in llama.cpp's order. */
import { byteCharacters } from './byte_tokenizer.js'
import {
  encodeValues,
  type GgufInput,
  type GgufTensorInput,
  type GgufType,
  type MetadataInput,
} from './gguf.js'

export const TINY = { hidden: 64, heads: 4, kvHeads: 2, headDim: 16, feedForward: 96, blocks: 1, vocab: 263 }

/** Numbers in [-1, 1) that look random (a linear congruential generator). */
export function noise(count: number, seed: number): Float32Array {
  let state = (seed * 2654435761) >>> 0
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 31 - 1
  })
}

/** llama.cpp's order of q and k: [heads, 2, half, cols] → [heads, half, 2, cols]. */
export function permuteRows(values: Float32Array, heads: number, cols: number): Float32Array {
  const rows = values.length / cols
  const half = rows / heads / 2
  const out = new Float32Array(values.length)
  for (let h = 0; h < heads; ++h)
    for (let j = 0; j < 2; ++j)
      for (let i = 0; i < half; ++i) {
        const from = ((h * 2 + j) * half + i) * cols
        out.set(values.subarray(from, from + cols), ((h * half + i) * 2 + j) * cols)
      }
  return out
}

/** The 256 bytes as byte-level BPE spells them, two merges, and special tokens. */
function vocabulary(): { tokens: string[]; types: number[]; merges: string[] } {
  const tokens = ['<s>', '</s>', '<user>', ...byteCharacters(), 'th', 'the', 'Ġthe', '__proto__']
  const types = tokens.map((_, i) => (i < 2 ? 3 : i === 2 ? 4 : 1))
  return { tokens, types, merges: ['t h', 'th e', 'Ġ the'] }
}

export interface TinyModel {
  input: GgufInput
  /** By Hugging Face's names and row order: the bytes' values before llama.cpp's permutation, and their type. */
  expected: Map<string, { type: GgufType; shape: number[]; values: Float32Array; heads?: number }>
}

export function tinyLlama(types: Partial<Record<string, GgufType>> = {}): TinyModel {
  const { hidden, heads, kvHeads, headDim, feedForward, vocab } = TINY
  const layer = 'model.layers.0.'
  const list: [gguf: string, name: string, shape: number[], type: GgufType, heads?: number][] = [
    ['token_embd', 'model.embed_tokens', [vocab, hidden], 'Q8_0'],
    ['blk.0.attn_norm', `${layer}input_layernorm`, [hidden], 'F32'],
    ['blk.0.attn_q', `${layer}self_attn.q_proj`, [heads * headDim, hidden], 'Q4_1', heads],
    ['blk.0.attn_k', `${layer}self_attn.k_proj`, [kvHeads * headDim, hidden], 'F16', kvHeads],
    ['blk.0.attn_v', `${layer}self_attn.v_proj`, [kvHeads * headDim, hidden], 'BF16'],
    ['blk.0.attn_output', `${layer}self_attn.o_proj`, [hidden, heads * headDim], 'Q4_0'],
    ['blk.0.ffn_norm', `${layer}post_attention_layernorm`, [hidden], 'F32'],
    ['blk.0.ffn_gate', `${layer}mlp.gate_proj`, [feedForward, hidden], 'Q4_1'],
    ['blk.0.ffn_up', `${layer}mlp.up_proj`, [feedForward, hidden], 'F32'],
    ['blk.0.ffn_down', `${layer}mlp.down_proj`, [hidden, feedForward], 'Q8_0'],
    ['output_norm', 'model.norm', [hidden], 'F32'],
  ]
  const expected: TinyModel['expected'] = new Map()
  const tensors: GgufTensorInput[] = list.map(([gguf, name, shape, usual, rotaryHeads], i) => {
    const type = types[gguf] ?? usual
    const values = noise(
      shape.reduce((a, b) => a * b, 1),
      i + 1,
    )
    expected.set(`${name}.weight`, { type, shape, values, heads: rotaryHeads })
    const stored = rotaryHeads ? permuteRows(values, rotaryHeads, shape[1]!) : values
    return { name: `${gguf}.weight`, type, shape, bytes: encodeValues(type, stored) }
  })
  const { tokens, types: tokenTypes, merges } = vocabulary()
  const metadata: [string, MetadataInput][] = [
    ['general.architecture', ['string', 'llama']],
    ['llama.block_count', ['u32', 1]],
    ['llama.context_length', ['u32', 128]],
    ['llama.embedding_length', ['u64', hidden]],
    ['llama.feed_forward_length', ['u32', feedForward]],
    ['llama.attention.head_count', ['u32', heads]],
    ['llama.attention.head_count_kv', ['u32', kvHeads]],
    ['llama.attention.layer_norm_rms_epsilon', ['f32', 1e-5]],
    ['llama.rope.freq_base', ['f32', 50000]],
    ['tokenizer.ggml.model', ['string', 'gpt2']],
    ['tokenizer.ggml.pre', ['string', 'smollm']],
    ['tokenizer.ggml.tokens', ['strings', tokens]],
    ['tokenizer.ggml.token_type', ['i32s', tokenTypes]],
    ['tokenizer.ggml.merges', ['strings', merges]],
    ['tokenizer.ggml.bos_token_id', ['u32', 0]],
    ['tokenizer.ggml.eos_token_id', ['u32', 1]],
    ['tokenizer.chat_template', ['string', '{{ messages }}']],
  ]
  return { input: { metadata, tensors }, expected }
}
