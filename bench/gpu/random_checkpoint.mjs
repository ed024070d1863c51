// A Llama of random float16 weights as a Hugging Face folder, written tensor by tensor. Its tokenizer is that of
// models/demo, whose 2048 tokens are the first of the vocabulary.
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { writeSafetensors } from '../../dist/checkpoint/safetensors_writer.js'
import { here } from '../native_module.mjs'
import { randomWeights } from '../random_weights.mjs'

export const LLAMA_7B = {
  hidden: 4096,
  inner: 11008,
  heads: 32,
  blocks: 32,
  vocabulary: 32000,
  positions: 2048,
}
export const TINY = { hidden: 64, inner: 96, heads: 2, blocks: 1, vocabulary: 2048, positions: 128 }
export const demo = path.join(here, '..', 'models', 'demo')

const configOf = ({ hidden, inner, heads, blocks, vocabulary, positions }) => ({
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: hidden,
  intermediate_size: inner,
  num_attention_heads: heads,
  num_key_value_heads: heads,
  num_hidden_layers: blocks,
  vocab_size: vocabulary,
  max_position_embeddings: positions,
  hidden_act: 'silu',
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  bos_token_id: 0,
  eos_token_id: 1,
  tie_word_embeddings: false,
  dtype: 'float16',
})

function shapesOf({ hidden, inner, blocks, vocabulary }) {
  const block = (i) =>
    Object.entries({
      input_layernorm: [hidden],
      'self_attn.q_proj': [hidden, hidden],
      'self_attn.k_proj': [hidden, hidden],
      'self_attn.v_proj': [hidden, hidden],
      'self_attn.o_proj': [hidden, hidden],
      post_attention_layernorm: [hidden],
      'mlp.gate_proj': [inner, hidden],
      'mlp.up_proj': [inner, hidden],
      'mlp.down_proj': [hidden, inner],
    }).map(([name, shape]) => [`model.layers.${i}.${name}`, shape])
  return [
    ['model.embed_tokens', [vocabulary, hidden]],
    ...Array.from({ length: blocks }, (_, i) => block(i)).flat(),
    ['model.norm', [hidden]],
    ['lm_head', [vocabulary, hidden]],
  ]
}

const HALF_ONE = 0x3c00

/** Nothing is written where the folder holds this model already. */
export async function writeRandomLlama(folder, model, seed) {
  const [file, configFile] = ['model.safetensors', 'config.json'].map((name) => path.join(folder, name))
  const config = JSON.stringify({ ...configOf(model), seed }, null, 2)
  if (existsSync(file) && readFileSync(configFile, 'utf8') === config) return file
  if (existsSync(configFile)) throw new Error(`${folder} holds another model: give another folder`)
  mkdirSync(folder, { recursive: true })
  for (const name of ['tokenizer.json', 'tokenizer_config.json'])
    copyFileSync(path.join(demo, name), path.join(folder, name))
  const weights = randomWeights(seed)
  const bytesOf = (shape) =>
    shape.length > 1 ? weights(shape) : Buffer.from(new Uint16Array(shape[0]).fill(HALF_ONE).buffer)
  const entries = shapesOf(model).map(([name, shape]) => ({
    name: `${name}.weight`,
    dtype: 'F16',
    shape,
    bytes: () => bytesOf(shape),
  }))
  await writeSafetensors(file, entries)
  writeFileSync(configFile, config)
  return file
}
