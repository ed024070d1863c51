// Packed products with int8 activations against OpenBLAS's float32, in one process, taking turns; medians, and medians
// of the ratios of each turn. Cold: copies of the weights, 160 MB together, take turns, so that each is read from memory.
//   node bench/packed.mjs [--threads 1,2] [--tokens 1,16,128,512] [--bits 2mix,1,2,3,4,8] [--rounds 9] [--warm]
//                         [--shapes 4096x4096,…] [--set avx2] [--json]

import { createRequire } from 'node:module'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { here } from './native_module.mjs'
import { openBlas, pauseForOpenBlas } from './openblas.mjs'
import { median } from './turns.mjs'

const { values: options } = parseArgs({
  options: {
    threads: { type: 'string', default: '1,2' },
    tokens: { type: 'string', default: '1,16,128,512' },
    bits: { type: 'string', default: '2mix,1,2,3,4,8' },
    shapes: { type: 'string', default: '4096x4096,11008x4096,4096x11008,1536x576' },
    rounds: { type: 'string', default: '9' },
    warm: { type: 'boolean', default: false },
    set: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
})
const COLD_BYTES = 160e6
const GROUP_SIZE = 128
const native = createRequire(import.meta.url)('node-gyp-build')(path.dirname(here))
if (options.set) native.setInstructionSet(options.set)
const found = openBlas()
const peer = typeof found === 'string' ? undefined : found

const random = (length, value) => Uint8Array.from({ length }, value)

/** Random codes; '2mix' has as many 1-bit as 3-bit groups, a tenth of each, as SliM-LLM's allocation gives. */
function packedMatrix(rows, cols, bits) {
  const groups = Math.ceil(cols / GROUP_SIZE)
  const widths = random(groups, (_, g) =>
    bits === '2mix' ? [1, 2, 2, 2, 2, 3, 2, 2, 2, 2][g % 10] : Number(bits),
  )
  const sum = (count) =>
    widths.reduce((total, b, g) => total + count(b, Math.min(GROUP_SIZE, cols - g * GROUP_SIZE)), 0)
  const bytes = (length) =>
    native.tensorFrom(
      random(length, () => Math.random() * 256),
      'U8',
      [length],
    )
  const means = sum((b) => (b === 1 ? rows * 2 : Math.ceil((rows * b) / 8)))
  // 0x2c00 is 1/16 in float16; bytes of a mean below 0x78 make no infinity.
  const halves = (count) => new Uint16Array(count).fill(0x2c00)
  const qzeros = native.tensorFrom(
    random(means, () => Math.random() * 0x70),
    'U8',
    [means],
  )
  return new native.PackedMatrix({
    rows,
    cols,
    groupSize: GROUP_SIZE,
    qweight: bytes(sum((b, width) => rows * Math.ceil((width * b) / 8))),
    groupBits: native.tensorFrom(widths, 'U8', [groups]),
    scales: native.tensorFrom(halves(groups * rows), 'F16', [groups, rows]),
    qzeros,
  })
}

async function measure({ rows, cols, bits, tokens, threads }) {
  const matrix = packedMatrix(rows, cols, bits)
  const input = Float32Array.from({ length: tokens * cols }, () => Math.random() * 2 - 1)
  const x = native.tensorFrom(input, 'F32', [tokens, cols])
  const y = native.allocateTensor('F32', [tokens, rows])
  const cold = tokens === 1 && !options.warm
  const copies = cold ? Math.ceil(COLD_BYTES / matrix.storedBytes) : 1
  const peerCopies = cold ? Math.ceil(COLD_BYTES / (rows * cols * 4)) : 1
  const work = rows * cols * tokens
  const repeats = cold ? Math.max(copies, 8) : Math.max(3, Math.ceil(2e9 / work))
  const weights = peer && new Float32Array(peerCopies * rows * cols).fill(0.5)
  const out = new Float32Array(tokens * rows)
  let turn = 0
  const turns = {
    ours: async () =>
      median(await native.packedCase(x, [{ matrix, y }], { copies, repeats }, threads).promise),
    theirs: async () => {
      const seconds = []
      for (let i = 0; i < Math.max(peerCopies, 2); i++) {
        const first = (turn++ % peerCopies) * rows * cols
        const b = weights.subarray(first, first + rows * cols)
        seconds.push(peer.run(tokens, rows, cols, input, b, out, threads, 1))
      }
      return median(seconds)
    },
  }
  const times = { ours: [], theirs: [] }
  for (let round = -1; round < Number(options.rounds); round++) {
    const order = peer ? ['ours', 'theirs'] : ['ours']
    if (round % 2) order.reverse()
    for (const who of order) {
      if (threads > 1 && peer) await pauseForOpenBlas()
      const seconds = await turns[who]()
      if (round >= 0) times[who].push(seconds)
    }
  }
  const seconds = median(times.ours)
  const result = {
    shape: `${rows}x${cols}`,
    bits,
    tokens,
    threads,
    cold,
    microseconds: seconds * 1e6,
    gigabytesPerSecond: matrix.storedBytes / seconds / 1e9,
    gigaoperations: (2 * work) / seconds / 1e9,
  }
  if (peer) result.timeRatio = median(times.ours.map((t, i) => t / times.theirs[i]))
  for (const handle of [matrix, x, y]) handle.dispose()
  return result
}

/** A product of one task a thread, some 0.2 µs of work, again and again as a decoder would: what the threads cost. */
async function loopCost(threads) {
  const matrix = packedMatrix(16 * threads, 2048, 2)
  const x = native.allocateTensor('F32', [1, 2048])
  const y = native.allocateTensor('F32', [1, 16 * threads])
  const seconds = await native.packedCase(x, [{ matrix, y }], { repeats: 20000 }, threads).promise
  return median(seconds) * 1e6
}

const numbers = (list) => list.split(',').map(Number)
const header = {
  processor: os.cpus()[0].model,
  cores: os.availableParallelism(),
  loadAverage: os.loadavg()[0],
  instructionSet: native.instructionSet(),
  openblas: peer ? peer.kernels : found,
}
if (!options.json)
  console.log(
    `${header.processor}, load ${header.loadAverage.toFixed(1)}, ${header.instructionSet}; ${header.openblas}`,
  )
const results = []
for (const threads of numbers(options.threads)) {
  const loop = await loopCost(threads)
  results.push({ name: 'loop', threads, microseconds: loop })
  if (!options.json)
    console.log(`${threads} threads: ${loop.toFixed(2)} µs a product of a tile for each thread`)
  for (const shape of options.shapes.split(','))
    for (const tokens of numbers(options.tokens))
      for (const bits of options.bits.split(',')) {
        const [rows, cols] = shape.split('x').map(Number)
        const r = await measure({ rows, cols, bits, tokens, threads })
        results.push(r)
        if (options.json) continue
        console.log(
          [
            r.shape.padEnd(11),
            `${r.bits} bits`.padEnd(10),
            `${tokens} tokens`.padEnd(11),
            `${threads} threads`,
            `${r.microseconds.toFixed(1)} µs`.padStart(12),
            `${r.gigabytesPerSecond.toFixed(1)} GB/s`.padStart(10),
            `${r.gigaoperations.toFixed(0)} Gop/s`.padStart(11),
            r.timeRatio ? `${r.timeRatio.toFixed(3)} of sgemm${r.cold ? ', cold' : ''}` : '',
          ].join('  '),
        )
      }
}
if (options.json) console.log(JSON.stringify({ ...header, results }))
