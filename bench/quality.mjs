// Quality and cost of quantization on a real model: perplexity, KL to the original, top-1 agreement, stored bits, file
// size, seconds, peak memory. Each row is one `slimllm quantize` and its evaluations, in processes of their own.
//
//   node bench/quality.mjs MODEL --table methods --calibration FILE --test FILE --out ROWS.ndjson
//        [--offsets FILE] [--seeds given,1,2] [--samples 64] [--seq-len 512] [--max-tokens 65536] [--kl-tokens 16384]
//        [--group-size 64] [--threads 2] [--cross NAME=CALIBRATION:TEST,…]
//
// Tables: methods (the baselines at 2, 3 and 4 bits), sizes (slim at stored budgets), ablation (slim with one part
// changed, and the plain method with one part of slim), texts (calibrated on each text of --cross, evaluated on the tests
// of all). A row that ROWS.ndjson holds already is not measured again: a file is for one model, test and number of tokens.
// `given` windows are those of --offsets.
import { spawnSync } from 'node:child_process'
import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    table: { type: 'string', default: 'methods' },
    calibration: { type: 'string' },
    test: { type: 'string' },
    offsets: { type: 'string' },
    seeds: { type: 'string', default: '0' },
    samples: { type: 'string', default: '64' },
    'seq-len': { type: 'string', default: '512' },
    'max-tokens': { type: 'string', default: '65536' },
    'kl-tokens': { type: 'string', default: '16384' },
    'group-size': { type: 'string', default: '64' },
    threads: { type: 'string', default: '2' },
    cross: { type: 'string', default: '' },
    out: { type: 'string' },
  },
})
const [model] = positionals
const cli = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', 'dist', 'cli', 'main.js')
const seeds = flags.seeds.split(',')

const SLIM = ['--method', 'slim']
/** Flags of the parts of slim, switched off: what is left is GPTQ on float16 scales. */
const OFF = {
  allocation: ['--allocation', 'uniform'],
  quantizer: ['--quantizer', 'minmax'],
  refinement: ['--sweeps', 0],
  'input drift': ['--input-drift-weight', 0],
  'state drift': ['--state-drift-weight', 0],
}
const without = (...parts) => parts.flatMap((part) => OFF[part])
const alone = (part) => without(...Object.keys(OFF).filter((other) => other !== part))
/** series, budget (bits or stored bits), flags of quantize; every seed of --seeds unless the row says which. */
const TABLES = {
  methods: [2, 3, 4].flatMap((bits) =>
    ['rtn', 'gptq', 'slim-paper'].map((method) => ({
      series: method,
      budget: bits,
      args: ['--method', method, '--bits', bits],
      seeds: method === 'rtn' || bits === 4 ? [seeds[0]] : seeds,
    })),
  ),
  sizes: [2.28, 3.28, 4.28, 1.75, 2.0, 2.5, 3.0].map((budget) => ({
    series: 'slim',
    budget: `${budget} stored`,
    args: [...SLIM, '--bits-per-weight', budget],
    seeds: [2.28, 3.28].includes(budget) ? seeds : [seeds[0]],
  })),
  ablation: [2, 3].flatMap((bits) =>
    [
      ['slim', []],
      ['no allocation (uniform widths)', without('allocation')],
      ['widths by SBA', ['--allocation', 'sba']],
      ['no scale search (min-max)', without('quantizer')],
      ['scales by SQC', ['--quantizer', 'sqc']],
      ['no refinement', without('refinement')],
      ['no input drift', without('input drift')],
      ['no state drift', without('state drift')],
      ['none of them', without(...Object.keys(OFF))],
      ...Object.keys(OFF).map((part) => [`${part} alone`, alone(part)]),
    ].map(([series, args]) => ({ series, budget: bits, args: [...SLIM, '--bits', bits, ...args], seeds })),
  ),
  texts: flags.cross
    .split(',')
    .filter(Boolean)
    .map((text) => text.split(/[=:]/))
    .map(([name, calibration, test]) => ({
      series: `calibrated on ${name}`,
      budget: 2,
      args: [...SLIM, '--bits', 2],
      seeds: ['0'],
      calibration,
      ...{ name, test },
    })),
}

function slimllm(...args) {
  const threads = args[0] === 'doctor' ? [] : ['--threads', flags.threads]
  const run = spawnSync(process.execPath, [cli, ...args.map(String), ...threads, '--json'], {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  })
  const last = run.stdout.trim().split('\n').at(-1)
  if (run.status !== 0) throw new Error(`${args.join(' ')}: ${last || run.stderr || run.signal}`)
  return JSON.parse(last)
}

/** Quantization is measured, not the runtime's rounding of activations. */
const windows = ['--file', flags.test, '--seq-len', flags['seq-len'], '--activations', 'float32']
const evaluate = (source, file = flags.test) =>
  slimllm('eval', source, ...windows.with(1, file), '--max-tokens', flags['max-tokens'])
/** The divergence from the original on the first --kl-tokens; one run gives both where they are all tokens. */
function compare(source) {
  const compared = slimllm(
    'eval',
    source,
    ...windows,
    '--max-tokens',
    flags['kl-tokens'],
    '--reference',
    model,
  )
  return flags['kl-tokens'] === flags['max-tokens'] ? compared : { ...compared, ...evaluate(source) }
}

function measure({ series, budget, args, calibration = flags.calibration }, seed) {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'slimllm-quality-'))
  const output = path.join(folder, 'packed')
  try {
    const draw = seed === 'given' ? ['--offsets', flags.offsets] : ['--seed', seed]
    const made = slimllm(
      ...['quantize', model, '--output', output, ...args, '--group-size', flags['group-size']],
      ...['--calibration', calibration, '--samples', flags.samples, '--seq-len', flags['seq-len'], ...draw],
    )
    const { storedBitsPerWeight, fileBytes, seconds, phases, peakMemoryBytes } = made
    const { perplexity, klDivergence: kl, top1Agreement: agreement } = compare(output)
    const others = TABLES.texts.map(({ name, test }) => [name, evaluate(output, test).perplexity])
    return {
      ...{ series, budget, seed, storedBitsPerWeight, fileBytes, perplexity, kl, agreement },
      ...{ seconds, phases, peakMemoryBytes },
      ...(others.length > 0 && { perplexities: Object.fromEntries(others) }),
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const key = ({ series, budget, seed }) => JSON.stringify([series, String(budget), String(seed)])
const read = () =>
  existsSync(flags.out)
    ? readFileSync(flags.out, 'utf8')
        .trim()
        .split('\n')
        .filter(Boolean)
        .map((l) => JSON.parse(l))
    : []
const done = new Set(read().map(key))
for (const row of TABLES[flags.table])
  for (const seed of row.seeds) {
    if (done.has(key({ ...row, seed }))) continue
    const measured = measure(row, seed)
    appendFileSync(flags.out, `${JSON.stringify(measured)}\n`)
    console.error(JSON.stringify({ ...measured, phases: undefined }))
  }

const { instructionSet } = slimllm('doctor')
console.log(`processor: ${os.cpus()[0].model.trim()}, ${flags.threads} threads; ${instructionSet} kernels\n`)
console.log(
  '| budget | what | windows | perplexity | KL | top-1 | stored bits | file MB | seconds | peak MB |',
)
console.log('|---|---|---|---|---|---|---|---|---|---|')
for (const r of read()) {
  const cells = [
    ...[
      r.budget,
      r.series,
      r.seed,
      r.perplexity.toFixed(2),
      r.kl.toFixed(3),
      `${(100 * r.agreement).toFixed(1)} %`,
    ],
    ...[r.storedBitsPerWeight.toFixed(3), (r.fileBytes / 1e6).toFixed(1), r.seconds.toFixed(1)],
    Math.round(r.peakMemoryBytes / 1e6),
    ...Object.entries(r.perplexities ?? {}).map(([name, perplexity]) => `${name}: ${perplexity.toFixed(2)}`),
  ]
  console.log(`| ${cells.join(' | ')} |`)
}
