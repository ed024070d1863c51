// Tokens a second of whole models beside llama.cpp, in one process, taking turns: a prompt that is run at once, then tokens
// one by one, the likeliest each time.
//   npm install --ignore-scripts --prefix bench
//   node bench/generate_peers.mjs MODEL.gguf --folder DIR [--types Q2_K,Q4_0] [--ours PACKED_DIR,…] [--group-size 64]
//        [--prompt 512] [--decode 128] [--threads 1,2] [--rounds 7] [--out ROWS.json]
// Both sides are quantized from the same file into the folder, where they stay: theirs by llama.cpp; ours, unless --ours
// names packed folders, by round-to-nearest with a mix of widths (10 % 1-bit, 80 % 2-bit, 10 % 3-bit groups), with the
// head as it is and with a head of 8 bits. Speed does not depend on how well the weights were chosen.
import { existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { loadModel, openCheckpoint, quantize } from '../dist/index.js'
import { llamaProgram } from './llama_program.mjs'
import { compileModule } from './native_module.mjs'
import { loadedKernels } from './node_llama_cpp.mjs'
import { MIXES, mixedBits, native } from './packed_mixes.mjs'
import { median, ratio, takeTurns } from './turns.mjs'

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    folder: { type: 'string' },
    types: { type: 'string', default: 'Q2_K,Q4_0' },
    ours: { type: 'string' },
    'group-size': { type: 'string', default: '64' },
    prompt: { type: 'string', default: '512' },
    decode: { type: 'string', default: '128' },
    threads: { type: 'string', default: '1,2' },
    rounds: { type: 'string', default: '7' },
    out: { type: 'string' },
  },
})
/** llama.cpp's threads look for more work, on a core that the next needs, for about 0.3 s. */
const LLAMA_IDLE_MS = 400
const [model] = positionals
if (!model || !flags.folder) throw new Error('MODEL.gguf and --folder are needed')
const [promptTokens, decodeTokens, rounds, groupSize] = ['prompt', 'decode', 'rounds', 'group-size'].map(
  (name) => Number(flags[name]),
)
const name = path.basename(model, '.gguf')
mkdirSync(flags.folder, { recursive: true })

async function makeOurs(embeddingBits) {
  const output = path.join(flags.folder, `${name}.2-bit-mix${embeddingBits ? `.head-${embeddingBits}` : ''}`)
  if (existsSync(output)) return output
  const checkpoint = await openCheckpoint(model)
  const layers = [...checkpoint.tensors.values()].filter(
    ({ name: tensor, shape }) => /\.layers\.\d+\./.test(tensor) && shape.length === 2,
  )
  const bitMap = Object.fromEntries(
    layers.map(({ name: tensor, shape }) => [
      tensor.replace(/\.weight$/, ''),
      [...mixedBits(Math.ceil(shape[1] / groupSize), MIXES[0])],
    ]),
  )
  checkpoint.dispose()
  await quantize(model, { output, method: 'rtn', bits: 2, groupSize, bitMap, embeddingBits })
  return output
}

const bytesOf = (file) =>
  statSync(file).isDirectory()
    ? readdirSync(file).reduce((sum, entry) => sum + statSync(path.join(file, entry)).size, 0)
    : statSync(file).size

/** A fixed prompt: what the tokens are does not matter to the time. */
const promptIds = Int32Array.from({ length: promptTokens }, (_, i) => 1000 + ((i * 7919) % 20000))

async function ourParticipant(folder) {
  const loaded = await loadModel(folder)
  return {
    name: `slimllm ${path.basename(folder).replace(`${name}.`, '')}`,
    bytes: bytesOf(folder),
    async speed(threads) {
      const cache = loaded.native.cache(promptTokens + decodeTokens, 'F16')
      const sampler = new native.Sampler({})
      const step = async (ids) =>
        (await loaded.native.step([{ cache, ids, sampler }], threads).promise)[0].tokenId
      const start = performance.now()
      let next = await step(promptIds)
      const began = performance.now()
      for (let i = 0; i < decodeTokens; i++) next = await step(Int32Array.of(next))
      const seconds = [began - start, performance.now() - began].map((ms) => ms / 1e3)
      cache.dispose()
      sampler.dispose()
      return seconds
    },
    dispose: () => loaded.dispose(),
  }
}

function theirParticipants(program) {
  const llama = compileModule('llama_speed.c', [...program.compile, ...program.link])
  llama.open(program.libraries)
  return flags.types.split(',').map((type) => {
    const file = path.join(flags.folder, `${name}.${type}.gguf`)
    if (!existsSync(file)) program.quantize(model, file, type, os.availableParallelism())
    const handle = llama.load(file, promptTokens + decodeTokens)
    const types = {}
    for (const { name: tensor, type: stored } of program.call('tensors', file))
      if (/^blk\.\d+\.(attn|ffn)_(?!norm)/.test(tensor)) types[stored] = (types[stored] ?? 0) + 1
    return {
      name: `llama.cpp ${type}`,
      bytes: bytesOf(file),
      types,
      speed: async (threads) => llama.speed(handle, promptIds, decodeTokens, threads),
      dispose: () => llama.dispose(handle),
    }
  })
}

const program = llamaProgram()
const folders = flags.ours?.split(',') ?? [await makeOurs(), await makeOurs(8)]
const participants = theirParticipants(program)
for (const folder of folders) participants.push(await ourParticipant(folder))

const header = {
  processor: os.cpus()[0].model.trim(),
  cores: os.availableParallelism(),
  instructionSet: native.instructionSet(),
  llama: `${program.release}, ${loadedKernels()} kernels`,
  model: name,
  promptTokens,
  decodeTokens,
}
console.log(
  `${header.processor}, ${header.cores} cores; ours: ${header.instructionSet}; llama.cpp ${header.llama}`,
)
const peers = participants.filter(({ name: who }) => who.startsWith('llama.cpp')).map(({ name: who }) => who)
const results = []
for (const threads of flags.threads.split(',').map(Number)) {
  const both = await takeTurns(
    participants.map(({ name: who, speed }) => ({
      name: who,
      turn: () => speed(threads),
      idleMs: threads > 1 ? LLAMA_IDLE_MS : 0,
    })),
    rounds,
  )
  const [prompt, decode] = [0, 1].map((i) => new Map([...both].map(([who, t]) => [who, t.map((s) => s[i])])))
  for (const { name: who, bytes, types } of participants) {
    const ratios = (times) => Object.fromEntries(peers.map((peer) => [peer, 1 / ratio(times, who, peer)]))
    const row = {
      name: who,
      threads,
      bytes,
      types,
      promptTokensASecond: promptTokens / median(prompt.get(who)),
      decodeTokensASecond: decodeTokens / median(decode.get(who)),
      promptSpeedup: ratios(prompt),
      decodeSpeedup: ratios(decode),
    }
    results.push(row)
    const times = peers.map(
      (peer) => `${row.promptSpeedup[peer].toFixed(2)}, ${row.decodeSpeedup[peer].toFixed(2)} × ${peer}`,
    )
    console.log(
      [
        who.padEnd(32),
        `${threads} threads`,
        `${(bytes / 1e6).toFixed(1)} MB`.padStart(9),
        `prompt ${row.promptTokensASecond.toFixed(1)}`.padStart(15),
        `decode ${row.decodeTokensASecond.toFixed(1)}`.padStart(13),
        ...times,
      ].join('  '),
    )
  }
}
for (const { types, name: who } of participants) if (types) console.log(`${who}: ${JSON.stringify(types)}`)
for (const { dispose } of participants) await dispose()
if (flags.out) writeFileSync(flags.out, `${JSON.stringify({ ...header, results }, null, 2)}\n`)
