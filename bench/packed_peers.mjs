// The packed kernels beside ggml, ONNX Runtime and OpenBLAS, by shape, in one process, taking turns: medians, and medians
// of the ratios of each turn.
//   npm install --ignore-scripts --prefix bench
//   node bench/packed_peers.mjs [--threads 1,2] [--rounds 15] [--only 4096x11008] [--tokens 1,16,128,512]
//        [--group-size 128] [--alone] [--out ROWS.json] [--svg CHART.svg]
// A shape is inputs × outputs; --alone leaves the peers out. Products with up to 16 tokens read weights that no cache
// holds; preparing the activations is part of every time. A busy machine disturbs two threads more than one:
// `chrt -f 1 node …` (as root) keeps others off.
import { writeFileSync } from 'node:fs'
import os from 'node:os'
import { parseArgs } from 'node:util'
import { ratioBarsSvg } from '../dist/report/ratio_bars.js'
import { compileModule } from './native_module.mjs'
import { everybody } from './packed_participants.mjs'
import { comparisonGroups, comparisonTable } from './packed_table.mjs'
import { median, ratio, takeTurns } from './turns.mjs'

const { values: flags } = parseArgs({
  options: {
    threads: { type: 'string', default: '1,2' },
    rounds: { type: 'string', default: '15' },
    only: { type: 'string' },
    tokens: { type: 'string', default: '1,16,128,512' },
    'group-size': { type: 'string', default: '128' },
    out: { type: 'string' },
    alone: { type: 'boolean', default: false },
    svg: { type: 'string' },
  },
})

const VECTOR_SHAPES = [
  [4096, 4096],
  [4096, 11008],
  [11008, 4096],
  [576, 1536],
]
const MATRIX_SHAPES = [[4096, 4096]]
/** Workers look for more work, on a core that the next needs, for a while before they sleep; OpenBLAS's the longest. */
const IDLE_MS = 150
const STREAM_BYTES = 192 * 2 ** 20

const threadCounts = flags.threads.split(',').map(Number)
const groupSize = Number(flags['group-size'])
const rounds = Number(flags.rounds)
const cases = flags.tokens
  .split(',')
  .map(Number)
  .flatMap((tokens) =>
    (tokens === 1 ? VECTOR_SHAPES : MATRIX_SHAPES).map(([cols, rows]) => ({ cols, rows, tokens })),
  )
  .filter(({ cols, rows }) => !flags.only || flags.only === `${cols}x${rows}`)
if (cases.length === 0) throw new Error(`--only ${flags.only}: expected a shape such as 4096x11008`)

const { participants: all, notes } = everybody()
const participants = flags.alone ? all.filter(({ ours }) => ours) : all
const stream = compileModule('stream.c', ['-pthread'])

async function measure(shape) {
  const made = []
  for (const participant of participants) {
    const product = await participant.make({ ...shape, groupSize }, threadCounts)
    if (product) made.push({ ...participant, ...product })
  }
  const rows = []
  for (const threads of threadCounts) {
    const times = await takeTurns(
      [
        ...made.map(({ name, turn }) => ({
          name,
          turn: () => turn(threads),
          idleMs: threads > 1 ? IDLE_MS : 0,
        })),
        { name: 'stream', turn: async () => 1 / stream.read(STREAM_BYTES, threads) },
        // The same in pieces of a product's size, which threads begin and end together: what a product could be.
        ...made
          .filter(({ ours, bytes }) => ours && bytes < STREAM_BYTES)
          .map(({ name, bytes }) => ({
            name: `pieces of ${name}`,
            turn: async () => bytes / stream.read(STREAM_BYTES, threads, bytes),
          })),
      ],
      rounds,
    )
    for (const { name, bits, bytes } of made) {
      const seconds = median(times.get(name))
      const operations = 2 * shape.cols * shape.rows * shape.tokens
      rows.push({
        ...shape,
        threads,
        name,
        bits,
        microseconds: seconds * 1e6,
        bandwidthShare: bytes * median(times.get(name).map((t, i) => times.get('stream')[i] / t)),
        pieceShare: times.has(`pieces of ${name}`) ? ratio(times, `pieces of ${name}`, name) : null,
        gops: operations / seconds / 1e9,
        ratios: Object.fromEntries(made.map((other) => [other.name, ratio(times, name, other.name)])),
      })
    }
  }
  for (const { dispose } of made) await dispose()
  return rows
}

const header = { processor: os.cpus()[0].model.trim(), cores: os.availableParallelism(), notes, groupSize }
console.log(`${header.processor}, ${header.cores} cores; ${notes.join('; ')}; groups of ${groupSize}`)
const results = []
for (const shape of cases) {
  const rows = await measure(shape)
  results.push(...rows)
  for (const row of rows)
    console.log(
      [
        `${row.cols}×${row.rows} ×${row.tokens}`.padEnd(18),
        `${row.threads} threads`,
        row.name.padEnd(22),
        `${row.microseconds.toFixed(0)} µs`.padStart(10),
        `${row.gops.toFixed(0)} Gop/s`.padStart(11),
        `${(100 * row.bandwidthShare).toFixed(0)} % of stream`.padStart(16),
        row.ratios['OpenBLAS fp32'] ? `${row.ratios['OpenBLAS fp32'].toFixed(3)} of OpenBLAS` : '',
      ].join('  '),
    )
}
if (flags.out) writeFileSync(flags.out, `${JSON.stringify({ ...header, results }, null, 2)}\n`)
console.log(`\n${comparisonTable(results)}`)
if (flags.svg)
  writeFileSync(
    flags.svg,
    ratioBarsSvg(comparisonGroups(results), {
      title: `Packed products beside their peers, ${header.processor}`,
      axis: "time over the peer's: shorter is faster",
    }),
  )
