// The dense GEMM against OpenBLAS, in one process, taking turns; medians, and medians of the ratios of each turn.
//   node bench/gemm.mjs [--threads 1,2] [--rounds 9] [--set avx2] [--core Haswell] [--json]
// OpenBLAS chooses its kernels itself: OPENBLAS_* variables are removed unless --core names some.
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
    rounds: { type: 'string', default: '9' },
    set: { type: 'string' },
    core: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
})

// C [m, n] = A [m, k] · B [n, k]ᵀ; with `gram` the upper triangle of C [m, m] += XᵀX, X [k, m].
const PROBLEMS = [
  { name: 'yardstick', m: 512, n: 4096, k: 4096 },
  { name: 'q, o of SmolLM2', m: 2048, n: 576, k: 576 },
  { name: 'k, v of SmolLM2', m: 2048, n: 192, k: 576 },
  { name: 'gate, up of SmolLM2', m: 2048, n: 1536, k: 576 },
  { name: 'down of SmolLM2', m: 2048, n: 576, k: 1536 },
  { name: 'gate, up, one sequence', m: 512, n: 1536, k: 576 },
  { name: 'down, one sequence', m: 512, n: 576, k: 1536 },
  { name: 'attention scores', m: 512, n: 512, k: 64 },
  { name: 'Hessian 576', m: 576, n: 576, k: 2048, gram: true },
  { name: 'Hessian 1536', m: 1536, n: 1536, k: 2048, gram: true },
  { name: 'one token', m: 1, n: 4096, k: 4096 },
  { name: 'three tokens', m: 3, n: 1536, k: 576 },
]
const MIN_FLOPS_PER_TURN = 4e9

const native = createRequire(import.meta.url)('node-gyp-build')(path.dirname(here))
if (options.set) native.setInstructionSet(options.set)

const randomArray = (length) => Float32Array.from({ length }, () => Math.random() * 2 - 1)

async function measure({ name, m, n, k, gram = false }, threads, peer) {
  const aShape = gram ? [k, m] : [m, k]
  const arrays = { a: randomArray(m * k), b: gram ? null : randomArray(n * k), c: new Float32Array(m * n) }
  const a = { tensor: native.tensorFrom(arrays.a, 'F32', aShape), layout: gram ? 'columns' : 'rows' }
  const b = gram ? a : { tensor: native.tensorFrom(arrays.b, 'F32', [n, k]), layout: 'rows' }
  const c = native.allocateTensor('F32', [m, n])
  const flops = gram ? m * (m + 1) * k : 2 * m * n * k
  const repeats = Math.max(1, Math.ceil(MIN_FLOPS_PER_TURN / flops))
  const product = { m, n, k, a, b, upperOnly: gram, accumulate: gram, repeats }
  const turns = {
    ours: async () => {
      const seconds = await native.gemmCase(c, product, threads).promise
      return seconds.reduce((sum, s) => sum + s, 0) / repeats
    },
    theirs: async () => peer.run(m, n, k, arrays.a, arrays.b, arrays.c, threads, repeats),
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
  const result = {
    name,
    shape: gram ? `XᵀX ${m} (k ${k})` : `${m}×${n}×${k}`,
    threads,
    milliseconds: median(times.ours) * 1e3,
    gflops: flops / median(times.ours) / 1e9,
  }
  if (peer) {
    result.peerGflops = flops / median(times.theirs) / 1e9
    result.speedRatio = median(times.theirs.map((t, i) => t / times.ours[i]))
  }
  for (const { tensor } of new Set([a, b])) tensor.dispose()
  c.dispose()
  return result
}

const found = openBlas(options.core)
const peer = typeof found === 'string' ? undefined : found
const header = {
  processor: os.cpus()[0].model,
  cores: os.availableParallelism(),
  loadAverage: os.loadavg()[0],
  instructionSet: native.instructionSet(),
  openblas: peer ? { kernels: peer.kernels, file: peer.file } : found,
}
if (!options.json)
  console.log(
    `${header.processor}, ${header.cores} cores, load ${header.loadAverage.toFixed(1)}; ours: ${header.instructionSet}; ` +
      (peer ? `OpenBLAS: ${peer.kernels} kernels (${peer.file})` : found),
  )
const results = []
for (const threads of options.threads.split(',').map(Number))
  for (const problem of PROBLEMS) {
    const r = await measure(problem, threads, peer)
    results.push(r)
    if (options.json) continue
    const cells = [
      r.name.padEnd(24),
      r.shape.padEnd(18),
      `${threads} threads`,
      `${r.milliseconds.toFixed(3)} ms`.padStart(12),
    ]
    cells.push(`${r.gflops.toFixed(1)} GFLOP/s`.padStart(15))
    if (peer)
      cells.push(`OpenBLAS ${r.peerGflops.toFixed(1)}`.padStart(16), `ratio ${r.speedRatio.toFixed(2)}`)
    console.log(cells.join('  '))
  }
if (options.json) console.log(JSON.stringify({ ...header, results }))
