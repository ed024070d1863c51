// A Llama of random weights as a GGUF file of float16, for measurements of speed at sizes at which every quantization of
// llama.cpp applies in full. The vocabulary is the first part of another GGUF file's.
//   node bench/random_llama.mjs SOURCE.gguf TARGET.gguf [--hidden 2048] [--blocks 16] [--intermediate 5632] [--heads 32]
//        [--kv-heads 8] [--vocabulary 32000] [--context 4096] [--seed 0]
import { closeSync, openSync, writeSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { readGgufHeader } from '../dist/checkpoint/gguf.js'
import { randomWeights } from './random_weights.mjs'

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: Object.fromEntries(
    Object.entries({
      hidden: 2048,
      blocks: 16,
      intermediate: 5632,
      heads: 32,
      'kv-heads': 8,
      vocabulary: 32000,
      context: 4096,
      seed: 0,
    }).map(([name, value]) => [name, { type: 'string', default: String(value) }]),
  ),
})
const [source, target] = positionals
if (!source || !target) throw new Error('SOURCE.gguf and TARGET.gguf are needed')
const [hidden, blocks, intermediate, heads, kvHeads, vocabulary, context, seed] = Object.values({
  ...{ hidden: 0, blocks: 0, intermediate: 0, heads: 0, 'kv-heads': 0, vocabulary: 0, context: 0, seed: 0 },
  ...flags,
}).map(Number)

const [UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY] = [4, 5, 6, 7, 8, 9]
const [F32, F16] = [0, 1]
const ALIGNMENT = 32

const u32 = (value) => Buffer.from(Uint32Array.of(value).buffer)
const u64 = (value) => Buffer.from(BigUint64Array.of(BigInt(value)).buffer)
const string = (text) => Buffer.concat([u64(Buffer.byteLength(text)), Buffer.from(text)])
const VALUES = {
  [UINT32]: u32,
  [INT32]: (value) => Buffer.from(Int32Array.of(value).buffer),
  [FLOAT32]: (value) => Buffer.from(Float32Array.of(value).buffer),
  [BOOL]: (value) => Buffer.from([Number(value)]),
  [STRING]: string,
}
const entry = (key, type, value) => Buffer.concat([string(key), u32(type), VALUES[type](value)])
const list = (key, type, values) =>
  Buffer.concat([string(key), u32(ARRAY), u32(type), u64(values.length), ...values.map(VALUES[type])])

function metadata() {
  const { metadata: from } = readGgufHeader(source)
  const own = (key) => from.get(`tokenizer.ggml.${key}`)
  const tokens = own('tokens').slice(0, vocabulary)
  if (tokens.length < vocabulary) throw new Error(`--vocabulary: ${source} has ${tokens.length} tokens only`)
  const known = new Set(tokens)
  const merges = own('merges').filter((merge) => known.has(merge.replace(' ', '')))
  const llama = (key, type, value) => entry(`llama.${key}`, type, value)
  return [
    entry('general.architecture', STRING, 'llama'),
    entry('general.name', STRING, `random Llama, hidden size ${hidden}`),
    entry('general.file_type', UINT32, F16),
    llama('block_count', UINT32, blocks),
    llama('context_length', UINT32, context),
    llama('embedding_length', UINT32, hidden),
    llama('feed_forward_length', UINT32, intermediate),
    llama('attention.head_count', UINT32, heads),
    llama('attention.head_count_kv', UINT32, kvHeads),
    llama('attention.layer_norm_rms_epsilon', FLOAT32, 1e-5),
    llama('rope.freq_base', FLOAT32, 10000),
    llama('rope.dimension_count', UINT32, hidden / heads),
    llama('vocab_size', UINT32, vocabulary),
    entry('tokenizer.ggml.model', STRING, own('model')),
    entry('tokenizer.ggml.pre', STRING, own('pre')),
    list('tokenizer.ggml.tokens', STRING, tokens),
    list('tokenizer.ggml.token_type', INT32, own('token_type').slice(0, vocabulary)),
    list('tokenizer.ggml.merges', STRING, merges),
    ...['bos', 'eos'].map((id) => entry(`tokenizer.ggml.${id}_token_id`, UINT32, own(`${id}_token_id`))),
    entry('tokenizer.ggml.add_bos_token', BOOL, false),
  ]
}

/** The head is the embedding table. Shapes are [rows, columns]. */
function tensors() {
  const kvSize = (hidden / heads) * kvHeads
  const block = (i) => [
    { name: `blk.${i}.attn_norm.weight`, shape: [hidden] },
    { name: `blk.${i}.attn_q.weight`, shape: [hidden, hidden] },
    { name: `blk.${i}.attn_k.weight`, shape: [kvSize, hidden] },
    { name: `blk.${i}.attn_v.weight`, shape: [kvSize, hidden] },
    { name: `blk.${i}.attn_output.weight`, shape: [hidden, hidden] },
    { name: `blk.${i}.ffn_norm.weight`, shape: [hidden] },
    { name: `blk.${i}.ffn_gate.weight`, shape: [intermediate, hidden] },
    { name: `blk.${i}.ffn_up.weight`, shape: [intermediate, hidden] },
    { name: `blk.${i}.ffn_down.weight`, shape: [hidden, intermediate] },
  ]
  return [
    { name: 'token_embd.weight', shape: [vocabulary, hidden] },
    ...Array.from({ length: blocks }, (_, i) => block(i)).flat(),
    { name: 'output_norm.weight', shape: [hidden] },
  ]
}

const weights = randomWeights(seed)
const all = tensors()
const padded = (bytes) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT
const bytesOf = ({ shape }) => shape.reduce((product, size) => product * size, shape.length > 1 ? 2 : 4)
let offset = 0
const infos = all.map((tensor) => {
  const { name, shape } = tensor
  const dims = [...shape].reverse().map(u64)
  const info = [string(name), u32(shape.length), ...dims, u32(shape.length > 1 ? F16 : F32), u64(offset)]
  offset += padded(bytesOf(tensor))
  return Buffer.concat(info)
})
const entries = metadata()
const header = Buffer.concat([
  Buffer.from('GGUF'),
  u32(3),
  u64(all.length),
  u64(entries.length),
  ...entries,
  ...infos,
])
const file = openSync(target, 'w')
const write = (bytes) => {
  for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done)
  writeSync(file, Buffer.alloc(padded(bytes.length) - bytes.length))
}
write(header)
for (const { shape } of all)
  write(shape.length > 1 ? weights(shape) : Buffer.from(new Float32Array(shape[0]).fill(1).buffer))
closeSync(file)
console.error(`${target}: ${all.length} tensors, ${((header.length + offset) / 1e9).toFixed(2)} GB`)
