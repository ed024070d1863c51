import { Command, Option } from 'commander'
import { SlimError } from '../errors.js'
import { readJson } from '../files.js'
import type { LayerOverride, QuantizeOptions, QuantizeProgress } from '../quantize/options.js'
import { type QuantizeReport, quantize } from '../quantize/pipeline.js'
import { act, type Context, decimal, deviceOption, wholeNumber } from './action.js'
import { bytes, duration, type Output } from './output.js'

interface Flags {
  output: string
  bits?: number
  bitsPerWeight?: number
  groupSize: number
  method: NonNullable<QuantizeOptions['method']>
  allocation?: QuantizeOptions['allocation']
  quantizer?: QuantizeOptions['quantizer']
  sweeps?: number
  inputDriftWeight?: number
  stateDriftWeight?: number
  calibration?: string
  samples?: number
  seqLen?: number
  seed: number
  offsets?: string
  override: string[]
  bitMap?: string
  embeddingBits?: number
  headBits?: number
  device: NonNullable<QuantizeOptions['device']>
  threads?: number
  overwrite?: boolean
  restart?: boolean
  json?: boolean
}

export function quantizeCommand(): Command {
  return new Command('quantize')
    .description('quantize a Hugging Face folder or a GGUF file into a packed folder')
    .argument('<model>', 'folder with config.json and *.safetensors, or a .gguf file')
    .requiredOption('--output <folder>', 'folder to make')
    .option('--bits <n>', 'store what uniform groups of so many bits would, 1 to 8 (default: 2)', wholeNumber)
    .option('--bits-per-weight <x>', 'in place of --bits: stored bits a weight, everything counted', decimal)
    .option('--group-size <n>', 'input channels that share a scale: 32, 64, 128 or 256', wholeNumber, 64)
    .addOption(
      new Option('--method <name>', 'method').choices(['slim', 'slim-paper', 'gptq', 'rtn']).default('slim'),
    )
    .addOption(
      new Option('--allocation <kind>', "group bits, if not the method's").choices([
        'fisher',
        'sba',
        'uniform',
      ]),
    )
    .addOption(
      new Option('--quantizer <kind>', "scales, if not the method's").choices(['wide', 'sqc', 'minmax']),
    )
    .option('--sweeps <n>', "sweeps of the refinement, if not the method's", wholeNumber)
    .option(
      '--input-drift-weight <x>',
      "share of the inputs' drift made up for, if not the method's",
      decimal,
    )
    .option(
      '--state-drift-weight <x>',
      "share of the states' drift made up for, if not the method's",
      decimal,
    )
    .option('--calibration <file>', 'UTF-8 text to calibrate on (all methods but rtn)')
    .option('--samples <n>', 'calibration windows (default: 128, or as many as --offsets has)', wholeNumber)
    .option(
      '--seq-len <n>',
      'tokens a window (default: 2048, or as many as the model has positions)',
      wholeNumber,
    )
    .option('--seed <n>', 'seed of the windows', wholeNumber, 0)
    .option('--offsets <file>', 'JSON file with "offsets": first tokens of the windows, in place of the seed')
    .option(
      '--override <glob:field=value,…>',
      'per layer, e.g. "**.down_proj:bits=3,groupSize=32" or "**.o_proj:skip"; may be repeated',
      (value: string, all: string[]) => [...all, value],
      [],
    )
    .option('--bit-map <file>', 'a slimllm.json whose group bits are used as they are')
    .option('--embedding-bits <n>', 'quantize the embedding table (kept by default)', wholeNumber)
    .option('--head-bits <n>', 'quantize an untied lm_head (kept by default)', wholeNumber)
    .addOption(deviceOption())
    .option('--threads <n>', 'threads (default: all cores)', wholeNumber)
    .option('--overwrite', 'replace a finished slimllm folder at the output')
    .option('--restart', 'discard an unfinished run at the output instead of continuing it')
    .option('--json', 'NDJSON on stdout')
    .action((model: string, flags: Flags, command: Command) =>
      act(command, (context) => runQuantize(model, flags, context)),
    )
}

/** The share of the mean diagonal that GPTQ always adds (docs/methods.md, step 2); more is worth a word. */
const DAMPING = 0.01

async function runQuantize(model: string, flags: Flags, { output, signal }: Context): Promise<void> {
  const { calibration, samples, seqLen, seed, override, offsets, json: _, ...options } = flags
  const report = await quantize(model, {
    ...options,
    calibration: calibration
      ? {
          file: calibration,
          samples,
          seqLen,
          seed,
          offsets: offsets ? await readOffsets(offsets) : undefined,
        }
      : undefined,
    overrides: Object.fromEntries(override.map(parseOverride)),
    onProgress: showProgress(output),
    onWarning: (warning) => output.warning(warning),
    signal,
  }).catch((error) => {
    if (error instanceof SlimError && error.code === 'SLIM_ABORTED')
      output.note(
        `What is done is kept in ${options.output}.partial; give the same command again to continue`,
      )
    throw error
  })
  const { peakDeviceBytes } = report
  const damping = Math.max(...report.layers.map((layer) => layer.damping ?? 0))
  output.result(resultFields(report), [
    `${report.output}: ${report.storedBitsPerWeight.toFixed(3)} stored bits a weight, ` +
      `${bytes(report.fileBytes)}, ${duration(report.seconds.total)}` +
      (damping > DAMPING ? `, Hessians damped by at most ${damping} of their mean diagonal` : ''),
    ...(peakDeviceBytes === null
      ? []
      : [`on ${report.instructionSet}, at most ${bytes(peakDeviceBytes)} of its memory`]),
  ])
}

export function resultFields(report: QuantizeReport): Record<string, unknown> {
  const { output, storedBitsPerWeight, codeBitsPerWeight, fileBytes, seconds } = report
  const { peakMemoryBytes, peakDeviceBytes } = report
  const { layers: _, total, ...phases } = seconds
  return {
    output,
    storedBitsPerWeight,
    codeBitsPerWeight,
    fileBytes,
    seconds: total,
    phases,
    peakMemoryBytes,
    peakDeviceBytes,
  }
}

const DOING: Record<Exclude<QuantizeProgress['phase'], 'resume' | 'finish'>, string> = {
  sensitivity: 'measuring how much each layer matters',
  calibrate: 'calibrating',
  quantize: 'quantizing',
  propagate: 'running the quantized block',
}

/** A bar on a terminal, a line a block elsewhere, an event a step with --json. */
export function showProgress(output: Output): (progress: QuantizeProgress) => void {
  let lastStep: 'sensitivity' | number | null = null
  return (progress) => {
    const { block, blocks, phase, layer, seconds, secondsLeft } = progress
    const left = secondsLeft === null ? '' : `, ${duration(secondsLeft)} left`
    if (phase === 'resume') {
      output.event('resume', { blocksDone: block, blocks, secondsLeft })
      output.note(`Continuing an unfinished run: ${block} of ${blocks} blocks are done${left}`)
      return
    }
    output.event('progress', { ...progress })
    if (phase === 'finish') return
    const what = layer ?? DOING[phase]
    const step = phase === 'sensitivity' ? phase : block
    const milestone = step !== lastStep
    const text = milestone && step === block && !process.stderr.isTTY ? '' : ` ${what}`
    output.progress(
      block / blocks,
      `block ${block + 1} of ${blocks}, ${duration(seconds)}${left}${text}`,
      milestone,
    )
    lastStep = step
  }
}

async function readOffsets(file: string): Promise<number[]> {
  const { offsets } = await readJson(file)
  if (Array.isArray(offsets)) return offsets as number[]
  throw new SlimError('SLIM_BAD_CONFIG', `${file} has no "offsets": [...]`, { file, parameter: 'offsets' })
}

/** "glob:bits=3,groupSize=32,skip" */
export function parseOverride(text: string): [string, LayerOverride] {
  const [, glob, fields] = /^(.+):([^:]+)$/.exec(text) ?? []
  const override: LayerOverride = {}
  for (const field of fields?.split(',') ?? []) {
    const [key, value] = field.split('=')
    if (key === 'skip' && value === undefined) override.skip = true
    else if ((key === 'bits' || key === 'groupSize') && /^\d+$/.test(value ?? ''))
      override[key] = Number(value)
    else throw SlimError.invalidArgument('--override', 'GLOB:bits=N,groupSize=N or GLOB:skip', text)
  }
  if (!glob) throw SlimError.invalidArgument('--override', 'GLOB:bits=N,groupSize=N or GLOB:skip', text)
  return [glob, override]
}
