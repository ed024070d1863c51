// Quality and cost of every method on a real model: perplexity, stored bits, file size, seconds, peak memory.
// Each row is one `slimllm quantize` and one `slimllm eval` in processes of their own.
//
//   node bench/quality.mjs MODEL --calibration FILE --test FILE [--offsets FILE] [--bits 2,3] [--seeds 1,2]
//        [--samples 64] [--seq-len 512] [--max-tokens 65536] [--methods rtn,gptq,slim-paper] [--threads 2] [--out FILE.json]
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    calibration: { type: 'string' },
    test: { type: 'string' },
    offsets: { type: 'string' },
    bits: { type: 'string', default: '2,3' },
    seeds: { type: 'string', default: '' },
    samples: { type: 'string', default: '64' },
    'seq-len': { type: 'string', default: '512' },
    'max-tokens': { type: 'string', default: '65536' },
    methods: { type: 'string', default: 'rtn,gptq,slim-paper' },
    'group-size': { type: 'string', default: '64' },
    threads: { type: 'string', default: '2' },
    out: { type: 'string' },
  },
})
const [model] = positionals
const cli = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', 'dist', 'cli', 'main.js')
const folder = mkdtempSync(path.join(os.tmpdir(), 'slimllm-quality-'))
const list = (text) => text.split(',').filter(Boolean)

function slimllm(...args) {
  const run = spawnSync(process.execPath, [cli, ...args, '--threads', flags.threads, '--json'], {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  })
  const result = JSON.parse(run.stdout.trim().split('\n').at(-1))
  if (run.status !== 0) throw new Error(`${args.join(' ')}: ${result.message}`)
  return result
}

const evaluate = (source) =>
  slimllm(
    'eval',
    source,
    '--file',
    flags.test,
    '--seq-len',
    flags['seq-len'],
    '--max-tokens',
    flags['max-tokens'],
  )

const rows = []
function add(row) {
  rows.push(row)
  console.error(JSON.stringify({ ...row, phases: undefined }))
}

try {
  const original = evaluate(model)
  add({ method: 'original', bits: null, seed: null, ...pick(original), seconds: null })
  for (const bits of list(flags.bits))
    for (const method of list(flags.methods)) {
      // The given offsets first; seeded windows after them, where the spread over samples matters.
      const seeds = method.startsWith('slim') && bits === '2' ? [null, ...list(flags.seeds)] : [null]
      for (const seed of seeds) {
        const output = path.join(folder, `${method}-${bits}-${seed}`)
        const windows =
          seed === null && flags.offsets ? ['--offsets', flags.offsets] : ['--seed', seed ?? '0']
        const made = slimllm(
          ...['quantize', model, '--output', output, '--bits', bits, '--group-size', flags['group-size']],
          ...['--method', method, '--calibration', flags.calibration, '--samples', flags.samples],
          ...['--seq-len', flags['seq-len'], ...windows],
        )
        const { storedBitsPerWeight, fileBytes, seconds, phases, peakMemoryBytes } = made
        const { perplexity } = evaluate(output)
        add({
          method,
          bits,
          seed: seed ?? (flags.offsets ? 'given' : '0'),
          perplexity,
          storedBitsPerWeight,
          fileBytes,
          seconds,
          phases,
          peakMemoryBytes,
        })
        rmSync(output, { recursive: true })
      }
    }
} finally {
  rmSync(folder, { recursive: true, force: true })
}

console.log(
  `processor: ${os.cpus()[0].model.trim()}, ${flags.threads} threads; ${JSON.parse(spawnSync(process.execPath, [cli, 'doctor', '--json'], { encoding: 'utf8' }).stdout).instructionSet} kernels\n`,
)
console.log(
  '| bits | method | windows | perplexity | stored bits a weight | file MB | seconds | peak memory MB |',
)
console.log('|---|---|---|---|---|---|---|---|')
for (const r of rows)
  console.log(
    `| ${r.bits ?? ''} | ${r.method} | ${r.seed ?? ''} | ${r.perplexity.toFixed(2)} | ${r.storedBitsPerWeight?.toFixed(3) ?? ''} | ${r.fileBytes ? (r.fileBytes / 1e6).toFixed(1) : ''} | ${r.seconds?.toFixed(1) ?? ''} | ${Math.round(r.peakMemoryBytes / 1e6)} |`,
  )
if (flags.out) writeFileSync(flags.out, `${JSON.stringify(rows, null, 2)}\n`)

function pick({ perplexity, storedBitsPerWeight, peakMemoryBytes }) {
  return { perplexity, storedBitsPerWeight, peakMemoryBytes }
}
