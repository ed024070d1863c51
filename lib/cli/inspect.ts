import path from 'node:path'
import { Command } from 'commander'
import { openCheckpoint } from '../checkpoint/checkpoint.js'
import { shardCount } from '../checkpoint/huggingface.js'
import { kindOf } from '../files.js'
import { type LayerReport, type Manifest, readManifest } from '../packed/manifest.js'
import { Journal } from '../quantize/journal.js'
import { checkpointSpec, type QuantizationConfig } from '../runtime/weights.js'
import { act, type Context } from './action.js'
import { bytes, duration, type Output, table } from './output.js'

export function inspectCommand(): Command {
  return new Command('inspect')
    .description('what a checkpoint or packed folder holds')
    .argument('<model>', 'packed folder, Hugging Face folder, or .gguf file')
    .option('--json', 'NDJSON on stdout')
    .action((source: string, _flags: object, command: Command) =>
      act(command, (context) => runInspect(source, context)),
    )
}

async function runInspect(source: string, { output }: Context): Promise<void> {
  const partial = await unfinishedRun(source)
  if (partial) return inspectUnfinished(partial, output)
  using checkpoint = await openCheckpoint(source)
  const spec = checkpointSpec(checkpoint)
  const manifest = await readManifest(source)
  const tensors = [...checkpoint.tensors.values()]
  const tensorBytes = tensors.reduce((sum, tensor) => sum + tensor.byteLength, 0)
  const packed = checkpoint.config.quantization_config as QuantizationConfig | null | undefined
  const isOurs = packed?.quant_method === 'slim'
  const { heads, kvHeads, headDim } = spec.blocks[0]!.spec
  const model = {
    format: isOurs ? 'slimllm' : checkpoint.format,
    modelType: spec.modelType,
    blocks: spec.blocks.length,
    hiddenSize: spec.hiddenSize,
    heads,
    kvHeads,
    headDim,
    vocabSize: spec.vocabSize,
    tensors: tensors.length,
    tensorBytes,
  }
  output.result({ ...model, manifest }, [
    `${spec.modelType}: ${model.blocks} blocks, hidden ${spec.hiddenSize}, ${heads} heads (${kvHeads} key/value) of ${headDim}, ` +
      `${spec.vocabSize} tokens; ${model.tensors} tensors, ${bytes(tensorBytes)} (${model.format})`,
    ...(manifest ? describeManifest(manifest) : []),
    ...(isOurs && !manifest
      ? [
          `packed by slimllm in ${packed.bits} bits, group ${packed.group_size}; it runs, but what every layer got is not known,`,
          'as slimllm.json is missing: copy it from where the folder comes from, or quantize again',
        ]
      : []),
  ])
}

/** The folder of an unfinished run: the one given, or the one beside an output that is not there yet. */
async function unfinishedRun(source: string): Promise<string | null> {
  const folder = path.resolve(source)
  if (folder.endsWith('.partial')) return (await Journal.read(folder)) && folder
  if ((await kindOf(folder)) !== null) return null
  return (await Journal.read(`${folder}.partial`)) && `${folder}.partial`
}

async function inspectUnfinished(folder: string, output: Output): Promise<void> {
  const { entries, writer } = (await Journal.read(folder))!
  // The first shard is that of the tables.
  const done = Math.max(0, entries.length - 1)
  const blocks = entries[0] ? shardCount(entries[0].shard) - 1 : null
  const seconds = entries.reduce((sum, { elapsed }) => sum + elapsed, 0)
  const result = folder.replace(/\.partial$/, '')
  output.result({ format: 'unfinished', output: result, blocksDone: done, blocks, seconds, writer }, [
    `an unfinished run of slimllm quantize: ${done} of ${blocks ?? '?'} blocks are done, in ${duration(seconds)}`,
    writer === null
      ? `Give the same command again (--output ${result}, same model and options) to continue it; --restart discards it`
      : `Process ${writer} is at work on it`,
  ])
}

function describeManifest(manifest: Manifest): string[] {
  const { settings, calibration, layers, seconds } = manifest
  const text = calibration
    ? `${calibration.samples} × ${calibration.seqLen} calibration tokens`
    : 'no calibration'
  return [
    `${settings.method}, ${settings.bits} bits, group ${settings.groupSize}, ${text}, ${duration(seconds.total)}`,
    `${manifest.storedBitsPerWeight.toFixed(3)} stored bits a weight (codes alone ${manifest.codeBitsPerWeight.toFixed(3)})`,
    '',
    ...table(
      ['layer', 'shape', 'groups by bits', 'stored bits', 'relative error', 'damping'],
      layers.map((layer) => [
        layer.name,
        `${layer.rows}×${layer.cols}`,
        groupCounts(layer),
        ((8 * layer.storedBytes) / (layer.rows * layer.cols)).toFixed(3),
        layer.relativeError?.toFixed(4) ?? '–',
        layer.damping === null ? '–' : String(layer.damping),
      ]),
    ),
  ]
}

/** "1:2 2:5 3:2": two groups of 1 bit, five of 2, two of 3. */
function groupCounts({ groupBits }: LayerReport): string {
  const counts = new Map<number, number>()
  for (const bits of groupBits) counts.set(bits, (counts.get(bits) ?? 0) + 1)
  return [...counts]
    .sort(([a], [b]) => a - b)
    .map(([bits, count]) => `${bits}:${count}`)
    .join(' ')
}
