import { mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { Command } from 'commander'
import { evaluatePerplexity } from '../evaluate/perplexity.js'
import { packageRoot } from '../native/addon.js'
import type { Method } from '../quantize/options.js'
import { quantize } from '../quantize/pipeline.js'
import { loadModel } from '../runtime/model.js'
import { measureSpeed } from '../runtime/speed.js'
import { act, type Context, wholeNumber } from './action.js'
import { showWindows } from './eval.js'
import { bytes, duration, table } from './output.js'
import { showProgress } from './quantize.js'

const PROMPT = 'It was a bright morning, and'
const SEQ_LEN = 256
const SPEED = { promptTokens: 512, generateTokens: 128, repeats: 3, cacheDType: 'F16' } as const

interface Row {
  name: string
  storedBitsPerWeight: number
  fileBytes: number
  perplexity: number
  /** Tokens a second: of a prompt of 512, and of 128 made one by one. */
  promptRate: number
  generateRate: number
  seconds: number | null
}

type Measured = Pick<Row, 'fileBytes' | 'perplexity' | 'promptRate' | 'generateRate'>

export function demoCommand(): Command {
  return new Command('demo')
    .description('quantize the 5 M-parameter model that comes with the package to 2 bits, and compare')
    .option('--threads <n>', 'threads (default: all cores)', wholeNumber)
    .option('--json', 'NDJSON on stdout')
    .action((flags: { threads?: number }, command: Command) =>
      act(command, (context) => runDemo(flags.threads, context)),
    )
}

async function runDemo(threads: number | undefined, { output, signal }: Context): Promise<void> {
  const demo = path.join(packageRoot(), 'models', 'demo')
  const folder = await mkdtemp(path.join(os.tmpdir(), 'slimllm-demo-'))
  try {
    output.note('fp16: evaluating')
    const rows: Row[] = [{ name: 'fp16', storedBitsPerWeight: 16, ...(await measure(demo)), seconds: null }]
    const methods: [string, Method][] = [
      ['RTN', 'rtn'],
      ['GPTQ', 'gptq'],
      ['SliM, as published', 'slim-paper'],
      ['SliM', 'slim'],
    ]
    for (const [name, method] of methods) {
      output.note(`${name}: quantizing to 2 bits`)
      const packed = path.join(folder, method)
      const { storedBitsPerWeight, seconds } = await quantize(demo, {
        output: packed,
        bits: 2,
        groupSize: 32,
        method,
        calibration: { file: path.join(demo, 'calibration.txt'), samples: 64, seqLen: SEQ_LEN, seed: 0 },
        threads,
        onProgress: showProgress(output),
        signal,
      })
      output.note(`${name}: evaluating`)
      rows.push({ name, storedBitsPerWeight, ...(await measure(packed)), seconds: seconds.total })
    }
    const text = await sampleText(path.join(folder, 'slim'))
    output.result({ rows, prompt: PROMPT, text }, [
      'A 5.2 M-parameter Llama trained on public-domain books; linear layers in 2 bits, groups of 32;',
      `perplexity on the first 32,768 tokens of its held-out text, windows of ${SEQ_LEN};`,
      `tokens a second of a prompt of ${SPEED.promptTokens}, and of ${SPEED.generateTokens} made one by one.`,
      '',
      ...table(
        ['method', 'stored bits a weight', 'file', 'perplexity', 'prompt', 'decode', 'time'],
        rows.map((row) => [
          row.name,
          row.storedBitsPerWeight.toFixed(3),
          bytes(row.fileBytes),
          row.perplexity.toFixed(2),
          `${row.promptRate.toFixed(0)} t/s`,
          `${row.generateRate.toFixed(0)} t/s`,
          row.seconds === null ? '–' : duration(row.seconds),
        ]),
      ),
      '',
      `SliM at 2 bits continues “${PROMPT}”:`,
      `  ${PROMPT}${text.replaceAll('\n', '\n  ')}`,
    ])
  } finally {
    await rm(folder, { recursive: true, force: true })
  }

  async function measure(source: string): Promise<Measured> {
    await using model = await loadModel(source, { threads, signal })
    const { perplexity } = await evaluatePerplexity(model, {
      file: path.join(demo, 'heldout.txt'),
      seqLen: SEQ_LEN,
      maxTokens: 32_768,
      onProgress: showWindows(output, 2),
      signal,
    })
    const { prompt, generate } = await measureSpeed(model, { ...SPEED, signal })
    return {
      perplexity,
      fileBytes: await weightBytes(source),
      promptRate: prompt!.median,
      generateRate: generate!.median,
    }
  }

  async function sampleText(source: string): Promise<string> {
    await using model = await loadModel(source, { threads, signal })
    let text = ''
    for await (const token of model.generate(PROMPT, {
      maxTokens: 60,
      temperature: 0.7,
      topP: 0.9,
      seed: 1,
      signal,
    }))
      text += token.text
    return text
  }
}

/** Bytes of a folder's safetensors files. */
async function weightBytes(folder: string): Promise<number> {
  const files = (await readdir(folder)).filter((name) => name.endsWith('.safetensors'))
  const sizes = await Promise.all(files.map(async (name) => (await stat(path.join(folder, name))).size))
  return sizes.reduce((sum, size) => sum + size, 0)
}
