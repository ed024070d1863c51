import os from 'node:os'
import { Command } from 'commander'
import { addon } from '../native/addon.js'
import { readManifest } from '../packed/manifest.js'
import { KV_CACHE_DTYPES, type KvCacheType } from '../runtime/generate_options.js'
import { type LoadOptions, loadModel, type Model } from '../runtime/model.js'
import { measureSpeed, type Speed } from '../runtime/speed.js'
import {
  act,
  activationsOption,
  type Context,
  deviceOption,
  kvCacheOption,
  loading,
  peakMemoryBytes,
  wholeNumber,
} from './action.js'
import { bytes, table } from './output.js'

interface Flags extends LoadOptions {
  promptTokens: number
  generateTokens: number
  repeats: number
  kvCache: KvCacheType
}

export function benchCommand(): Command {
  return new Command('bench')
    .description('tokens a second of prompt processing and of decoding, as llama-bench counts them')
    .argument('<model>', 'packed folder, Hugging Face folder, or .gguf file')
    .option(
      '--prompt-tokens <n>',
      'length of the prompt that is processed at once; 0: none',
      wholeNumber,
      512,
    )
    .option('--generate-tokens <n>', 'tokens that are made one by one; 0: none', wholeNumber, 128)
    .option('--repeats <n>', 'times that each is measured, after one to warm up', wholeNumber, 5)
    .addOption(kvCacheOption())
    .addOption(deviceOption())
    .addOption(activationsOption())
    .option('--threads <n>', 'threads (default: all cores)', wholeNumber)
    .option('--json', 'NDJSON on stdout')
    .action((source: string, flags: Flags, command: Command) =>
      act(command, (context) => runBench(source, flags, context)),
    )
}

async function runBench(source: string, flags: Flags, { output, signal }: Context): Promise<void> {
  const { promptTokens, generateTokens, repeats, kvCache } = flags
  await using model = await loadModel(source, loading(flags, signal))
  const { prompt, generate } = await measureSpeed(model, {
    promptTokens,
    generateTokens,
    repeats,
    cacheDType: KV_CACHE_DTYPES[kvCache],
    signal,
    onRepeat: (done, of) => output.progress(done / of, `run ${done} of ${of}`, false),
  })
  const facts = {
    model: source,
    modelType: model.spec.modelType,
    ...(await weightFacts(source, model)),
    ...where(flags.device),
    threads: model.threads,
    kvCache,
  }
  const rows: [string, Speed | null][] = [
    [`pp${promptTokens}`, prompt],
    [`tg${generateTokens}`, generate],
  ]
  const peak = peakMemoryBytes()
  output.result(
    { ...facts, promptTokens, generateTokens, repeats, prompt, generate, peakMemoryBytes: peak },
    [
      `${facts.modelType}, ${bytes(facts.weightBytes)}, ${facts.bitsPerWeight.toFixed(3)} bits a weight; ` +
        `${facts.processor}, ${facts.kernels} kernels, ${facts.threads} threads, ${kvCache} cache`,
      '',
      ...table(
        ['test', 'mean tokens/s', '±', 'median'],
        rows.flatMap(([test, speed]) =>
          speed
            ? [[test, ...[speed.mean, speed.standardDeviation, speed.median].map((rate) => rate.toFixed(2))]]
            : [],
        ),
      ),
    ],
  )
}

/** The processor or GPU that ran, and its kernels: an instruction set, or an image of kernels.fatbin. */
function where(device: Flags['device']) {
  if (device !== 'cuda')
    return {
      device: 'cpu',
      processor: os.cpus()[0]?.model.trim() ?? 'unknown',
      kernels: addon().instructionSet(),
    }
  const gpu = new (addon().CudaDevice)(0)
  const facts = { device, processor: gpu.name, kernels: gpu.image }
  gpu.dispose()
  return facts
}

/** Bytes of all weights; and what a weight takes: of the quantized layers, everything counted, or of all tensors. */
async function weightFacts(source: string, { checkpoint }: Model) {
  const tensors = [...checkpoint.tensors.values()]
  const weightBytes = tensors.reduce((sum, { byteLength }) => sum + byteLength, 0)
  const elements = tensors.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)
  const manifest = await readManifest(source)
  return { weightBytes, bitsPerWeight: manifest?.storedBitsPerWeight ?? (8 * weightBytes) / elements }
}
