// llama.cpp's quantizations of a GGUF file, as a peer: made by the library that node-llama-cpp ships (its binding has
// no quantize, so llama.c calls it), measured by our own evaluation.
//   npm install --ignore-scripts --prefix bench
//   node bench/llama.mjs MODEL.gguf --test FILE --folder DIR [--types Q2_K,Q4_0] [--seq-len 512] [--max-tokens 8192]
//        [--calibration FILE] [--samples 64 | --offsets FILE.json] [--check 2] [--threads 2] [--out ROWS.json]
// --calibration computes an importance matrix from that many windows of the file, as llama.cpp's own tool does; the
// types that cannot be made without one are then made too. --check compares the perplexity of the first windows with
// llama.cpp's own. Made files stay in the folder and are not made again.
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { evaluatePerplexity, loadModel, loadTokenizer, openCheckpoint, sampleWindows } from '../dist/index.js'
import { F16, llamaProgram, TYPES } from './llama_program.mjs'

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    test: { type: 'string' },
    folder: { type: 'string' },
    types: { type: 'string', default: Object.keys(TYPES).join(',') },
    calibration: { type: 'string' },
    samples: { type: 'string', default: '64' },
    offsets: { type: 'string' },
    'seq-len': { type: 'string', default: '512' },
    'max-tokens': { type: 'string', default: '8192' },
    check: { type: 'string', default: '0' },
    threads: { type: 'string', default: '2' },
    out: { type: 'string' },
  },
})
const [model] = positionals
if (!model || !flags.test || !flags.folder) throw new Error('MODEL.gguf, --test and --folder are needed')
const unknown = flags.types.split(',').filter((type) => !TYPES[type])
if (unknown.length) throw new Error(`--types: ${unknown} is none of ${Object.keys(TYPES)}`)
const [seqLen, maxTokens, threads, checked] = ['seq-len', 'max-tokens', 'threads', 'check'].map((name) =>
  Number(flags[name]),
)

const scratch = mkdtempSync(path.join(os.tmpdir(), 'slimllm-llama-'))

function writeIds(name, ids) {
  const file = path.join(scratch, name)
  writeFileSync(file, new Uint8Array(Int32Array.from(ids).buffer))
  return file
}

const isBlockMatrix = (name) => /^blk\.\d+\.(attn|ffn)_.*\.weight$/.test(name) && !name.includes('norm')

/** Made once; the time of a file that is there is not known. */
function make(llama, type, importance) {
  const file = path.join(
    flags.folder,
    `${path.basename(model, '.gguf')}.${type}${importance.length ? '.imatrix' : ''}.gguf`,
  )
  const made = existsSync(file) ? null : llama.quantize(model, file, type, threads, importance)
  return { file, seconds: made?.seconds ?? null, tensors: llama.call('tensors', file) }
}

/** Types whose blocks our reader does not decode are decoded to float16 by llama.cpp, as ours are when they are read. */
async function openMade(llama, file) {
  try {
    return await loadModel(file, { threads })
  } catch (error) {
    if (error.code !== 'SLIM_TENSOR_DTYPE') throw error
    const copy = path.join(scratch, 'decoded.gguf')
    llama.call('quantize', file, copy, F16, threads)
    return loadModel(copy, { threads })
  }
}

const rows = []
try {
  mkdirSync(flags.folder, { recursive: true })
  const llama = llamaProgram()
  const checkpoint = await openCheckpoint(model)
  const tokenizer = loadTokenizer(checkpoint)
  const weights = [...checkpoint.tensors.values()]
    .filter(({ name, shape }) => /\.layers\.\d+\./.test(name) && shape.length === 2)
    .reduce((sum, { shape }) => sum + shape[0] * shape[1], 0)
  checkpoint.dispose()
  const tokenIds = tokenizer.encode(readFileSync(flags.test, 'utf8')).slice(0, maxTokens)
  const checkIds = writeIds('check.ids', tokenIds.slice(0, checked * seqLen))
  const importance = []
  if (flags.calibration) {
    const text = tokenizer.encode(readFileSync(flags.calibration, 'utf8'))
    const offsets = flags.offsets && JSON.parse(readFileSync(flags.offsets, 'utf8')).offsets
    const { ids } = sampleWindows(text, { samples: Number(flags.samples), seqLen, offsets })
    importance.push(path.join(scratch, 'importance'))
    llama.call('importance', model, writeIds('calibration.ids', ids), seqLen, threads, ...importance)
  }
  console.error(`llama.cpp ${llama.release}, ${os.cpus()[0].model.trim()}, ${threads} threads`)
  const original = await loadModel(model, { threads })
  for (const type of flags.types.split(',')) {
    let made
    try {
      made = make(llama, type, importance)
    } catch (error) {
      console.error(`${type}: not made: ${error.message}`)
      continue
    }
    const matrices = made.tensors.filter(({ name }) => isBlockMatrix(name))
    const types = {}
    for (const matrix of matrices) types[matrix.type] = (types[matrix.type] ?? 0) + 1
    const quantized = await openMade(llama, made.file)
    const result = await evaluatePerplexity(quantized, { tokenIds, seqLen, reference: original })
    const row = {
      series: importance.length ? 'llama.cpp, importance matrix' : 'llama.cpp',
      label: type,
      budget: null,
      storedBitsPerWeight: (8 * matrices.reduce((sum, { bytes }) => sum + bytes, 0)) / weights,
      fileBytes: statSync(made.file).size,
      perplexity: result.perplexity,
      kl: result.klDivergence,
      agreement: result.top1Agreement,
      seconds: made.seconds,
      seed: null,
      tokens: result.tokens,
      types,
      path: made.file,
    }
    if (checked) {
      const ours = await evaluatePerplexity(quantized, {
        tokenIds: tokenIds.slice(0, checked * seqLen),
        seqLen,
      })
      row.check = {
        tokens: ours.tokens,
        ours: ours.perplexity,
        theirs: llama.call('perplexity', made.file, checkIds, seqLen, threads).perplexity,
      }
    }
    await quantized.dispose()
    rows.push(row)
    console.error(JSON.stringify(row))
  }
} finally {
  rmSync(scratch, { recursive: true, force: true })
}

console.log('| type | tensors | stored bits a weight | file MB | perplexity | KL | top-1 | seconds |')
console.log('|---|---|---|---|---|---|---|---|')
for (const row of rows.sort((a, b) => a.storedBitsPerWeight - b.storedBitsPerWeight)) {
  const tensors = Object.entries(row.types).map(([type, count]) => `${count} ${type}`)
  const cells = [
    row.label,
    tensors.join(', '),
    row.storedBitsPerWeight.toFixed(3),
    (row.fileBytes / 1e6).toFixed(1),
  ]
  cells.push(row.perplexity.toFixed(2), row.kl.toFixed(4), `${(100 * row.agreement).toFixed(1)} %`)
  console.log(`| ${[...cells, row.seconds?.toFixed(1) ?? ''].join(' | ')} |`)
}
if (flags.out) writeFileSync(flags.out, `${JSON.stringify(rows, null, 2)}\n`)
