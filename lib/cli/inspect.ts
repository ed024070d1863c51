import { Command } from 'commander'
import { decoderSpec } from '../architecture/index.js'
import { openCheckpoint } from '../checkpoint/checkpoint.js'
import { type LayerReport, type Manifest, readManifest } from '../packed/manifest.js'
import { act, type Context } from './action.js'
import { bytes, duration, table } from './output.js'

export function inspectCommand(): Command {
  return new Command('inspect')
    .description('what a checkpoint or packed folder holds')
    .argument('<model>', 'packed folder, Hugging Face folder, or .gguf file')
    .option('--json', 'NDJSON on stdout')
    .action((source: string, flags: { json?: boolean }) =>
      act(flags.json, (context) => runInspect(source, context)),
    )
}

async function runInspect(source: string, { output }: Context): Promise<void> {
  using checkpoint = await openCheckpoint(source)
  const spec = decoderSpec(checkpoint.config)
  const manifest = await readManifest(source)
  const tensors = [...checkpoint.tensors.values()]
  const tensorBytes = tensors.reduce((sum, tensor) => sum + tensor.byteLength, 0)
  const { heads, kvHeads, headDim } = spec.blocks[0]!.spec
  const model = {
    format: manifest ? 'slimllm' : checkpoint.format,
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
