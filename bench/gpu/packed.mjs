// Packed products on a GPU beside cuBLAS's float16 and torch's int4 (tinygemm), taking turns: medians, and medians of the
// ratios of each turn. Every product is checked against float64 before it is timed, on inputs that are new in every run.
//   npm run build && npm run build:cuda
//   node bench/gpu/packed.mjs [--only 4096x11008] [--tokens 1,16,64] [--rounds 15] [--out ROWS.json] [--svg CHART.svg]
//        [--cublas libcublas.so.12] [--python python3]
//   node bench/gpu/packed.mjs --from ROWS.json [--svg CHART.svg]     the tables and the chart of an earlier run
//   node bench/gpu/packed.mjs --emulated                             a few small products on the emulated driver, untimed
// A time is that of a graph of many products between two of the driver's events, over their number; the preparation of the
// activations is part of each. The products of a graph take 128 MB of weights or more in turn, more than the L2 cache
// holds. A shape is inputs × outputs. --python '' leaves tinygemm out.
import './errors.mjs'
import { readFileSync, writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { ratioBarsSvg } from '../../dist/report/ratio_bars.js'
import { native } from '../packed_mixes.mjs'
import { median, ratio, takeTurns } from '../turns.mjs'
import { GROUP_SIZE, SHAPES, shapeName, TOKENS, tokensName } from './cases.mjs'
import { isEmulated, useEmulatedDriver } from './emulated.mjs'
import { goalTable, reachedGoals, resultTable, speedupGroups } from './packed_table.mjs'
import {
  CUBLAS,
  copyRate,
  cublasParticipant,
  describeCublas,
  matrixRate,
  ourParticipants,
  randomActivations,
} from './products.mjs'
import { tinygemmParticipant } from './tinygemm.mjs'

const { values: flags } = parseArgs({
  options: {
    only: { type: 'string' },
    tokens: { type: 'string' },
    rounds: { type: 'string', default: '15' },
    out: { type: 'string' },
    svg: { type: 'string' },
    from: { type: 'string' },
    cublas: { type: 'string' },
    python: { type: 'string', default: 'python3' },
    emulated: { type: 'boolean', default: false },
  },
})
const { emulated } = flags
const rounds = Number(flags.rounds)
/** What is larger is a fault: ours round to 11 bits at most, peers' results to float16 and bfloat16. */
const LARGEST_ERROR = { ours: 2e-3, peers: 1e-2 }
const EMULATED_SHAPES = [
  [512, 48],
  [640, 131],
]
const EMULATED_TOKENS = [1, 2, 7, 16, 33, 130]
const limits = emulated ? { coldBytes: 1, leastRepeats: 2 } : { coldBytes: 128e6, leastRepeats: 48 }

function openDevice() {
  if (emulated) useEmulatedDriver()
  const { version, devices, driverError } = native.cudaDriver()
  if (driverError) throw driverError
  const { name, multiprocessors, memoryBytes } = devices[0]
  if (!emulated && isEmulated(devices[0]))
    throw new Error('The driver is the emulated one, on which nothing can be timed: --emulated')
  const device = new native.CudaDevice(0)
  return { device, facts: { name, multiprocessors, memoryBytes, driver: version, image: device.image } }
}

/** Who takes part beside us, or why not. */
async function findPeers(device) {
  if (emulated) return { peers: [], notes: ['cuBLAS and tinygemm do not run on the emulated driver'] }
  const notes = []
  const peers = []
  const absent = (name) => (error) => {
    notes.push(`without ${name}: ${error.message}`)
  }
  const cublas = await describeCublas(device, flags.cublas).catch(absent('cuBLAS'))
  if (cublas) {
    notes.push(cublas)
    peers.push(cublasParticipant(device, flags.cublas, limits))
  }
  const tinygemm = flags.python && (await tinygemmParticipant(flags.python, limits).catch(absent('tinygemm')))
  if (tinygemm) {
    notes.push(tinygemm.description)
    peers.push(tinygemm)
  }
  return { peers, notes }
}

/** A participant's product, launched once and checked; a peer that fails at it is left out, and that is said. */
async function checkedProduct({ name, ours = false, weights }, shape, x, notes) {
  const what = `${name}, ${shapeName([shape.cols, shape.rows])}, ${tokensName(shape.tokens)}`
  try {
    const product = await weights.product({ tokens: shape.tokens, x })
    await product.turn()
    const error = await product.error()
    const largest = ours ? LARGEST_ERROR.ours : LARGEST_ERROR.peers
    if (!(error <= largest)) throw new Error(`relative error ${error}, at most ${largest} expected`)
    return [{ ...product, name, ours, error }]
  } catch (error) {
    if (ours) throw new Error(`${what}: ${error.message}`)
    notes.push(`without ${what}: ${error.message}`)
    return []
  }
}

async function measure(participants, [cols, rows], report) {
  const made = []
  for (const participant of participants)
    made.push({ ...participant, weights: await participant.make({ cols, rows }) })
  for (const tokens of report.tokens) {
    const shape = { cols, rows, tokens }
    const x = randomActivations(tokens, cols)
    const products = []
    for (const participant of made)
      products.push(...(await checkedProduct(participant, shape, x, report.notes)))
    const times = emulated ? null : await takeTurns(products, rounds)
    for (const { name, ours, bytes, error } of products)
      report.results.push({
        ...shape,
        name,
        ours,
        bytes,
        error,
        ...timing(times, products, name, bytes, report),
      })
    for (const object of [x.tensor, ...products]) object.dispose()
  }
  for (const { weights } of made) weights.dispose()
}

function timing(times, products, name, bytes, { copyBytesPerSecond }) {
  if (!times) return { microseconds: null, speedups: {} }
  const seconds = median(times.get(name))
  const speedups = products.map((other) => [other.name, ratio(times, other.name, name)])
  return {
    microseconds: seconds * 1e6,
    gigabytesPerSecond: bytes / seconds / 1e9,
    bandwidthShare: bytes / seconds / copyBytesPerSecond,
    speedups: Object.fromEntries(speedups),
  }
}

async function run() {
  const { device, facts } = openDevice()
  const { peers, notes } = await findPeers(device)
  const shapes = (emulated ? EMULATED_SHAPES : SHAPES).filter(
    ([cols, rows]) => !flags.only || flags.only === `${cols}x${rows}`,
  )
  if (shapes.length === 0) throw new Error(`--only ${flags.only}: expected a shape such as 4096x11008`)
  const hasCublas = peers.some(({ name }) => name === CUBLAS)
  const report = {
    benchmark: 'packed products on a GPU',
    timed: !emulated,
    device: facts,
    notes,
    groupSize: GROUP_SIZE,
    rounds: emulated ? 0 : rounds,
    tokens: flags.tokens ? flags.tokens.split(',').map(Number) : emulated ? EMULATED_TOKENS : TOKENS,
    copyBytesPerSecond: emulated ? null : await copyRate(device, { bytes: 2 ** 30, rounds }),
    matrixOperationsPerSecond: hasCublas
      ? await matrixRate(device, flags.cublas, { size: 8192, rounds })
      : null,
    results: [],
  }
  for (const shape of shapes) {
    console.error(`${shapeName(shape)} …`)
    await measure([...ourParticipants(device, limits), ...peers], shape, report)
    write({ ...report, goals: reachedGoals(report) })
  }
  for (const { close } of peers) close?.()
  const left = device.usedBytes
  device.dispose()
  if (left > 0) throw new Error(`${left} bytes of device memory were not given back`)
  return { ...report, goals: reachedGoals(report) }
}

/** After each shape, so that a run that is cut short leaves what it measured. */
function write(report) {
  if (flags.out) writeFileSync(flags.out, `${JSON.stringify(report, null, 2)}\n`)
}

const report = flags.from ? JSON.parse(readFileSync(flags.from, 'utf8')) : await run()
const { device, timed, copyBytesPerSecond, matrixOperationsPerSecond } = report
console.log(`${device.name}, driver ${device.driver}, kernels ${device.image}; groups of ${report.groupSize}`)
for (const note of report.notes) console.log(note)
if (copyBytesPerSecond) console.log(`copies ${(copyBytesPerSecond / 1e12).toFixed(2)} TB/s, read and written`)
if (matrixOperationsPerSecond)
  console.log(`${CUBLAS}, 8192³: ${(matrixOperationsPerSecond / 1e12).toFixed(0)} TFLOP/s`)
if (!timed) console.log('THE EMULATED DRIVER: products are checked, nothing is timed.')
console.log(`\n${resultTable(report)}`)
if (report.goals.length > 0) console.log(`\n${goalTable(report)}`)
const groups = speedupGroups(report)
if (flags.svg && groups.length === 0) console.error(`${flags.svg} is not written: there is no ratio to draw`)
else if (flags.svg)
  writeFileSync(
    flags.svg,
    ratioBarsSvg(groups, {
      title: `Packed products beside ${CUBLAS}, ${device.name}`,
      axis: `${CUBLAS}'s time over ours: longer is faster`,
    }),
  )
