// Quantizes a Llama of random weights, of LLaMA-7B's shape (2 bits, groups of 128; --method slim-paper, as published,
// if no other is named): seconds, peak memory of the device and of the host, packed size against float16.
//   npm run build && npm run build:cuda
//   node bench/gpu/quantize.mjs [--device cuda] [--method NAME] [--blocks 32] [--samples 128] [--seq-len 2048] [--threads N]
//        [--out REPORT.json] [--folder MODEL]
//   node bench/gpu/quantize.mjs --emulated      a tiny model on the emulated driver, untimed
//   node bench/gpu/quantize.mjs --tiny --device cpu
// The model takes 13.5 GB on disk, in a temporary folder (TMPDIR) or in --folder, which stays. Writing it is not part of
// the time; reading, hashing and writing the result are.
import './errors.mjs'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { quantize } from '../../dist/index.js'
import { native } from '../packed_mixes.mjs'
import { markdownTable } from './cases.mjs'
import { isEmulated, useEmulatedDriver } from './emulated.mjs'
import { demo, LLAMA_7B, TINY, writeRandomLlama } from './random_checkpoint.mjs'

const { values: flags } = parseArgs({
  options: {
    device: { type: 'string', default: 'cuda' },
    method: { type: 'string', default: 'slim-paper' },
    blocks: { type: 'string' },
    samples: { type: 'string' },
    'seq-len': { type: 'string' },
    seed: { type: 'string', default: '0' },
    threads: { type: 'string', default: String(os.availableParallelism()) },
    folder: { type: 'string' },
    out: { type: 'string' },
    tiny: { type: 'boolean', default: false },
    emulated: { type: 'boolean', default: false },
  },
})
const tiny = flags.tiny || flags.emulated
if (flags.emulated) useEmulatedDriver()
const model = tiny ? { ...TINY } : { ...LLAMA_7B }
if (flags.blocks) model.blocks = Number(flags.blocks)
const settings = {
  device: flags.device,
  method: flags.method,
  bits: 2,
  groupSize: tiny ? 32 : 128,
  threads: Number(flags.threads),
}
const sampling = {
  samples: Number(flags.samples ?? (tiny ? 2 : 128)),
  seqLen: Number(flags['seq-len'] ?? (tiny ? 32 : 2048)),
}

/** Where it runs; on a GPU, whether that is one. */
function describePlace() {
  const processor = os.cpus()[0].model.trim()
  if (flags.device !== 'cuda') return { timed: true, processor, device: null }
  const { driverError, devices, version } = native.cudaDriver()
  if (driverError) throw driverError
  const [{ name }] = devices
  if (isEmulated(devices[0]) && !flags.emulated)
    throw new Error('The driver is the emulated one, on which nothing can be timed: --emulated')
  return { timed: !flags.emulated, processor, device: `${name}, driver ${version}` }
}

/** Resident memory that is no file's: a mapped checkpoint is not counted. */
const anonymousBytes = () =>
  1024 * Number(readFileSync('/proc/self/status', 'utf8').match(/^RssAnon:\s+(\d+) kB$/m)[1])

/** Runs body: { result, peak } with the most anonymous memory that was seen, ten times a second. */
async function watched(body) {
  let peak = anonymousBytes()
  const look = () => {
    peak = Math.max(peak, anonymousBytes())
  }
  const timer = setInterval(look, 100)
  try {
    const result = await body()
    return { result, peak }
  } finally {
    clearInterval(timer)
  }
}

async function measure(source, output) {
  let block = -1
  const started = performance.now()
  const { result, peak } = await watched(async () => {
    const made = await quantize(source, {
      ...settings,
      output,
      calibration: { file: path.join(demo, 'calibration.txt'), seed: Number(flags.seed), ...sampling },
      onProgress(progress) {
        if (progress.block === block) return
        block = progress.block
        console.error(`block ${block} of ${progress.blocks}, ${progress.seconds.toFixed(1)} s`)
      },
    })
    return { made, seconds: (performance.now() - started) / 1000 }
  })
  return { ...result, peak }
}

function reportOf({ made, seconds, peak }, sourceBytes) {
  const place = describePlace()
  const { layers: _, total, ...phases } = made.seconds
  const weights = made.layers.reduce((sum, { rows, cols }) => sum + rows * cols, 0)
  const layerBytes = made.layers.reduce((sum, { storedBytes }) => sum + storedBytes, 0)
  return {
    benchmark: 'quantization of a random Llama',
    ...place,
    model,
    settings: { ...settings, ...sampling },
    seconds: place.timed ? seconds : null,
    phases: place.timed ? phases : null,
    peakDeviceBytes: made.peakDeviceBytes ?? null,
    peakHostBytes: peak,
    storedBitsPerWeight: made.storedBitsPerWeight,
    layerBytes,
    layerHalfBytes: 2 * weights,
    fileBytes: made.fileBytes,
    sourceBytes,
  }
}

/** Of LLaMA-7B's shape by slim-paper, calibrated on 128 × 2048 tokens, on a GPU. */
const GOALS = { seconds: 75, peakDeviceBytes: 6e9 }
const hasGoals = ({ timed, device, settings: { method, samples, seqLen } }) =>
  timed &&
  device &&
  method === 'slim-paper' &&
  model.blocks === LLAMA_7B.blocks &&
  !tiny &&
  samples * seqLen >= 128 * 2048

const inUnits = (bytes) =>
  bytes < 1e9 ? `${(bytes / 1e6).toPrecision(3)} MB` : `${(bytes / 1e9).toPrecision(3)} GB`
const sizeOf = (bytes) => (bytes === null ? 'not told' : inUnits(bytes))

function print(report) {
  const { timed, seconds, phases, layerBytes, layerHalfBytes, fileBytes, sourceBytes } = report
  console.log(
    `${report.device ?? report.processor}; ${model.blocks} blocks of hidden size ${model.hidden}, ${settings.method}`,
  )
  if (!timed) console.log('THE EMULATED DRIVER: nothing is timed.')
  const spent = timed
    ? [
        ['seconds', seconds.toFixed(1)],
        ...Object.entries(phases).map(([name, s]) => [`… ${name}`, s.toFixed(1)]),
      ]
    : []
  const smaller = (from, to) => `${sizeOf(to)}, ${(from / to).toFixed(2)} times smaller than float16`
  const rows = [
    ...spent,
    ['peak memory of the device', sizeOf(report.peakDeviceBytes)],
    ['peak memory of the host, without mapped files', sizeOf(report.peakHostBytes)],
    ['stored bits a weight', report.storedBitsPerWeight.toFixed(3)],
    ['layers', smaller(layerHalfBytes, layerBytes)],
    ['files', smaller(sourceBytes, fileBytes)],
  ]
  console.log(markdownTable(['', ''], rows))
  if (!hasGoals(report)) return
  for (const [name, most] of Object.entries(GOALS)) {
    const verdict = report[name] === null ? 'not told' : report[name] <= most ? 'met' : 'missed'
    console.log(`goal: ${name} ≤ ${most}: ${verdict}`)
  }
}

const temporary = mkdtempSync(path.join(os.tmpdir(), 'slimllm-bench-'))
try {
  describePlace()
  const source = flags.folder ?? path.join(temporary, 'model')
  console.error(`the model: ${source}`)
  const file = await writeRandomLlama(source, model, Number(flags.seed))
  const report = reportOf(await measure(source, path.join(temporary, 'packed')), statSync(file).size)
  print(report)
  if (flags.out) writeFileSync(flags.out, `${JSON.stringify(report, null, 2)}\n`)
} finally {
  rmSync(temporary, { recursive: true })
}
