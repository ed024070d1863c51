// The main job on a real model, at a size for CI: SmolLM2-135M from its GGUF file, 16 × 512 calibration tokens, the
// first 16,384 test tokens. Usage: node scripts/check-real-model.mjs FOLDER, with FOLDER/models and FOLDER/data.
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { evaluatePerplexity, loadModel, quantize } from '../dist/index.js'

const shared = process.argv[2]
const source = path.join(shared, 'models', 'smollm2-135m-instruct', 'SmolLM2-135M-Instruct.Q4_1.gguf')
const text = (name) => path.join(shared, 'data', 'wikitext-2-raw', name)
const folder = mkdtempSync(path.join(os.tmpdir(), 'slimllm-real-'))
let failures = 0

function check(what, value, low, high) {
  const holds = value >= low && value <= high
  if (!holds) failures++
  console.log(`${holds ? 'ok    ' : 'FAILED'} ${what}: ${value.toFixed(3)}, bounds ${low} to ${high}`)
}

async function perplexity(source) {
  const model = await loadModel(source)
  try {
    return (await evaluatePerplexity(model, { file: text('wiki.test.raw'), seqLen: 512, maxTokens: 16_384 }))
      .perplexity
  } finally {
    await model.dispose()
  }
}

const make = (name, bits, method) =>
  quantize(source, {
    output: path.join(folder, name),
    bits,
    groupSize: 64,
    method,
    calibration: { file: text('wiki.valid.raw'), samples: 16, seqLen: 512, seed: 0 },
  })

try {
  // PyTorch gives 28.52.
  check('perplexity of the original', await perplexity(source), 28.46, 28.58)
  // Measured: 83 to 88, 75 to 77, 650 to 990 (AVX-512). Rounding order alone moves 3 bits by some 4 %, 2 bits by far more.
  const measured = {}
  for (const [name, bits, method, low, high] of [
    ['3-bit GPTQ', 3, 'gptq', 72, 100],
    ['3-bit SliM-LLM', 3, 'slim-paper', 66, 88],
    ['2-bit SliM-LLM', 2, 'slim-paper', 300, 2500],
    ['2-bit slim', 2, 'slim', 45, 130],
  ]) {
    const report = await make(name, bits, method)
    // slim never stores more than uniform groups would: 2.2815 at two bits.
    const most = method === 'slim' ? 0.2815 : 0.36
    check(`${name}, stored bits a weight`, report.storedBitsPerWeight, bits + 0.278, bits + most)
    measured[name] = await perplexity(report.output)
    check(`${name}, perplexity`, measured[name], low, high)
  }
  check(
    '3-bit SliM-LLM over GPTQ, ratio of perplexities',
    measured['3-bit SliM-LLM'] / measured['3-bit GPTQ'],
    0.5,
    1,
  )
} finally {
  rmSync(folder, { recursive: true, force: true })
}
process.exit(failures === 0 ? 0 : 1)
