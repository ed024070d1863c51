import { Command } from 'commander'
import { type EvaluateOptions, evaluatePerplexity } from '../evaluate/perplexity.js'
import { readManifest } from '../packed/manifest.js'
import { type LoadOptions, loadModel } from '../runtime/model.js'
import {
  act,
  activationsOption,
  type Context,
  deviceOption,
  loading,
  peakMemoryBytes,
  wholeNumber,
} from './action.js'
import { duration, type Output } from './output.js'

interface Flags extends LoadOptions {
  file: string
  seqLen?: number
  maxTokens?: number
  reference?: string
}

export function evalCommand(): Command {
  return new Command('eval')
    .description('perplexity of a model on a text; with --reference also KL divergence and top-1 agreement')
    .argument('<model>', 'packed folder, Hugging Face folder, or .gguf file')
    .requiredOption('--file <file>', 'UTF-8 text')
    .option(
      '--seq-len <n>',
      'tokens a window (default: 2048, or as many as the model has positions)',
      wholeNumber,
    )
    .option('--max-tokens <n>', 'use the first n tokens only', wholeNumber)
    .option('--reference <model>', 'the original, to compare distributions with')
    .addOption(deviceOption())
    .addOption(activationsOption())
    .option('--threads <n>', 'threads (default: all cores)', wholeNumber)
    .option('--json', 'NDJSON on stdout')
    .action((source: string, flags: Flags, command: Command) =>
      act(command, (context) => runEval(source, flags, context)),
    )
}

async function runEval(source: string, flags: Flags, { output, signal }: Context): Promise<void> {
  await using model = await loadModel(source, loading(flags, signal))
  await using reference = flags.reference
    ? await loadModel(flags.reference, loading(flags, signal))
    : undefined
  const { file, seqLen, maxTokens } = flags
  const result = await evaluatePerplexity(model, {
    file,
    seqLen,
    maxTokens,
    reference,
    signal,
    onProgress: showWindows(output, 10),
    onWarning: (warning) => output.warning(warning),
  })
  const manifest = await readManifest(source)
  const storedBitsPerWeight = manifest?.storedBitsPerWeight
  output.result({ ...result, storedBitsPerWeight, peakMemoryBytes: peakMemoryBytes() }, [
    `perplexity ${result.perplexity.toFixed(4)} (${result.tokens} tokens, windows of ${result.seqLen}, ${duration(result.seconds)})`,
    ...(storedBitsPerWeight === undefined ? [] : [`stored bits a weight ${storedBitsPerWeight.toFixed(3)}`]),
    ...(reference
      ? [
          `reference perplexity ${result.referencePerplexity!.toFixed(4)}`,
          `KL divergence ${result.klDivergence!.toFixed(5)} nats a token`,
          `top-1 agreement ${(100 * result.top1Agreement!).toFixed(2)} %`,
        ]
      : []),
  ])
}

/** A bar on a terminal, `lines` lines elsewhere, an event a window with --json. */
export function showWindows(output: Output, lines: number): NonNullable<EvaluateOptions['onProgress']> {
  return ({ windows, of, perplexity }) => {
    output.event('progress', { windows, of, perplexity })
    const milestone = windows % Math.ceil(of / lines) === 0
    output.progress(
      windows / of,
      `window ${windows} of ${of}, perplexity ${perplexity.toFixed(3)}`,
      milestone,
    )
  }
}
