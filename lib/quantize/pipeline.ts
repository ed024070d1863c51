/** quantize(): block after block, each calibrated on the states that the already quantized blocks before it give. */
import { createHash } from 'node:crypto'
import path from 'node:path'
import { defaultSeqLen } from '../architecture/index.js'
import type { DecoderBlockSpec, DecoderSpec } from '../architecture/spec.js'
import { type CalibrationSamples, sampleWindows } from '../calibration/samples.js'
import { type Checkpoint, openCheckpoint } from '../checkpoint/checkpoint.js'
import type { SafetensorsEntry } from '../checkpoint/safetensors_writer.js'
import { requireFinite } from '../checkpoint/tensor_info.js'
import { SlimError } from '../errors.js'
import { readUtf8 } from '../files.js'
import { type BlockWeights, type NativeTensor, run } from '../native/addon.js'
import { checkThreads, isCuda } from '../native/device.js'
import { Handles } from '../native/handles.js'
import {
  blockEntries,
  denseEntry,
  denseTensors,
  layerReport,
  meanCodeBits,
  NOTHING_MEASURED,
  packedEntries,
  storedBitsPerWeight,
} from '../packed/entries.js'
import { FORMAT_VERSION, type LayerReport, type Manifest } from '../packed/manifest.js'
import { checkOutput, PackedFolderWriter } from '../packed/writer.js'
import { checkPositions } from '../runtime/token_ids.js'
import { loadTokenizer } from '../runtime/tokenizer.js'
import {
  checkpointSpec,
  disposeWeights,
  loadBlockWeights,
  type QuantizationConfig,
} from '../runtime/weights.js'
import { packageVersion } from '../version.js'
import { allocateByFisher, checkAllocation } from './allocation.js'
import { cpuBackend, cudaBackend } from './backend.js'
import { type CalibrationStates, forward, quantizeBlock, type StepContext } from './block.js'
import {
  type BitMap,
  type QuantizeOptions,
  type QuantizeProgress,
  resolveSettings,
  type Settings,
} from './options.js'
import { planLayers, readBitMap, withAllocation } from './plan.js'
import { addSeconds, estimateSecondsLeft, noSeconds, type Seconds, secondsSince, timed } from './seconds.js'
import { startCalibration } from './states.js'

export interface QuantizeReport extends Manifest {
  /** The folder that was made. */
  output: string
  /** Largest resident memory of the process so far. */
  peakMemoryBytes: number
  /** The most memory that the GPU has given at once; null on the CPU. */
  peakDeviceBytes: number | null
}

/**
 * Quantizes a checkpoint (Hugging Face folder or GGUF file) into a packed folder at `options.output`.
 * The folder appears whole or not at all; a killed run continues after its last whole block when called again.
 */
export async function quantize(source: string, options: QuantizeOptions): Promise<QuantizeReport> {
  if (typeof source !== 'string' || source === '')
    throw SlimError.invalidArgument('source', 'the path of a model folder or .gguf file', source)
  const cuda = isCuda(options?.device)
  const settings = resolveSettings(options)
  if (typeof options.output !== 'string' || options.output === '')
    throw SlimError.invalidArgument('output', 'the path of a folder to make', options.output)
  const output = path.resolve(options.output)
  const threads = checkThreads(options.threads)
  const checkpoint = await openCheckpoint(source, { threads })
  try {
    if (checkpoint.config.quantization_config)
      throw new SlimError('SLIM_UNSUPPORTED_FORMAT', `${source} is quantized already`, {
        file: source,
        parameter: 'quantization_config',
        remedy: 'Quantize the original checkpoint',
      })
    const spec = checkpointSpec(checkpoint)
    checkHead(spec, settings)
    const bitMap = await readBitMap(options.bitMap)
    const plan = planLayers(spec, settings, bitMap)
    const { calibration, onWarning } = options
    const samples = calibration ? await drawSamples(checkpoint, spec, calibration, onWarning) : null
    checkAllocation(plan, settings, samples)
    await checkOutput(output, options.overwrite ?? false)
    using handles = new Handles()
    const backend = handles.own(cuda ? cudaBackend(threads) : cpuBackend(threads))
    const context = { backend, recipe: settings.recipe, plan, threads, signal: options.signal }
    return await new Quantization(checkpoint, spec, settings, samples, bitMap, context, options).run(output)
  } catch (error) {
    throw SlimError.from(cuda ? withDeviceRemedy(error) : error, { file: source })
  } finally {
    checkpoint.dispose()
  }
}

/** What to do when a GPU's memory is full. */
function withDeviceRemedy(error: unknown): unknown {
  if (!(error instanceof SlimError) || error.code !== 'SLIM_OUT_OF_MEMORY' || error.remedy) return error
  return new SlimError(error.code, error.message, {
    ...error,
    remedy:
      "Choose fewer or shorter calibration windows (calibration.samples, calibration.seqLen), or device 'cpu'",
    cause: error,
  })
}

async function drawSamples(
  checkpoint: Checkpoint,
  spec: DecoderSpec,
  { file, text, ...sampling }: NonNullable<QuantizeOptions['calibration']>,
  onWarning: QuantizeOptions['onWarning'],
): Promise<CalibrationSamples> {
  if ((file === undefined) === (text === undefined))
    throw SlimError.invalidArgument(
      'calibration',
      'either file or text',
      file === undefined ? 'neither' : 'both',
    )
  const tokens = loadTokenizer(checkpoint).encode(text ?? (await readUtf8(file!)))
  const seqLen = sampling.seqLen ?? defaultSeqLen(spec)
  checkPositions('calibration.seqLen', seqLen, spec, onWarning)
  return sampleWindows(tokens, { ...sampling, seqLen })
}

function checkHead(spec: DecoderSpec, { headBits }: Settings): void {
  if (spec.head.tied && headBits !== null)
    throw SlimError.invalidArgument(
      'headBits',
      'nothing, as this head is tied to the embeddings,',
      headBits,
      'Use embeddingBits',
    )
}

class Quantization {
  private readonly started = performance.now()
  private writer!: PackedFolderWriter
  /** Spent by the run that this one continues. */
  private earlierSeconds = 0
  /** Blocks done by the run that this one continues. */
  private resumedBlocks = 0

  constructor(
    private readonly checkpoint: Checkpoint,
    private readonly spec: DecoderSpec,
    private readonly settings: Settings,
    private readonly samples: CalibrationSamples | null,
    private readonly bitMap: BitMap | null,
    private context: StepContext,
    private readonly options: QuantizeOptions,
  ) {}

  async run(output: string): Promise<QuantizeReport> {
    const { settings, samples, bitMap, options, spec } = this
    const sourceHash = await this.checkpoint.sourceHash(options.signal)
    const versions = [FORMAT_VERSION, packageVersion(), this.context.backend.kernels]
    const decisive = [versions, settings, bitMap, sourceHash, samples?.hash]
    this.writer = await PackedFolderWriter.open(output, {
      identity: createHash('sha256').update(JSON.stringify(decisive)).digest('hex'),
      restart: options.restart ?? false,
      shards: spec.blocks.length + 1,
    })
    this.earlierSeconds = this.writer.done.reduce((sum, entry) => sum + entry.elapsed, 0)
    this.resumedBlocks = Math.max(0, this.writer.done.length - 1)
    try {
      if (this.resumedBlocks > 0) this.progress({ index: this.resumedBlocks }, 'resume')
      const allocation = this.writer.done.length === 0 ? await this.begin() : this.writer.done[0]!.allocation
      if (allocation) this.context = { ...this.context, plan: withAllocation(this.context.plan, allocation) }
      if (this.writer.done.length <= spec.blocks.length) await this.quantizeBlocks()
      return await this.finish(sourceHash)
    } finally {
      await this.writer.close()
    }
  }

  /** What is done once for the whole model: the allocation, which is journaled with the tables' shard. */
  private async begin(): Promise<BitMap | undefined> {
    const started = performance.now()
    const seconds = noSeconds()
    const allocation = await timed(seconds, 'sensitivity', () => this.allocate())
    await this.writeTables({ allocation, seconds, started })
    return allocation
  }

  /** Group widths for the whole model, where the method chooses them so and some are not given. */
  private async allocate(): Promise<BitMap | undefined> {
    const { checkpoint, spec, samples, settings, context } = this
    const open = [...context.plan.values()].some(({ skip, groupBits }) => !skip && !groupBits)
    if (settings.recipe.allocation !== 'fisher' || !samples || !open) return undefined
    await this.checkTables()
    return await allocateByFisher(checkpoint, spec, samples, settings, context, {
      spillFolder: this.writer.folder,
      loadBlock: (block) => this.loadBlock(block),
      onProgress: ({ done }) => this.progress({ index: Math.floor(done / 2) }, 'sensitivity'),
    })
  }

  /** NaN or infinity in a table is said of the table, not of what the pass through the model makes of it. */
  private async checkTables(): Promise<void> {
    const { embedding, head, positions, finalNorm } = this.spec
    for (const module of [embedding, head.tied ? null : head, positions, finalNorm])
      if (module) (await this.load(`${module.name}.weight`)).dispose()
  }

  /** The first shard: embeddings, positions, final norm and head. */
  private async writeTables({
    allocation,
    seconds,
    started,
  }: {
    allocation: BitMap | undefined
    seconds: Seconds
    started: number
  }): Promise<void> {
    const { spec, settings, checkpoint } = this
    const entries: SafetensorsEntry[] = []
    const layers: LayerReport[] = []
    const keep = async (name: string, shape?: number[]) => {
      const tensor = await this.load(name, shape)
      // In chunks: a table may be larger than one array can be.
      entries.push({ ...denseEntry(name, tensor), bytes: () => checkpoint.tensorBytes(name) })
      tensor.dispose()
    }
    const table = async (name: string, bits: number | null) => {
      const shape = [spec.vocabSize, spec.hiddenSize]
      if (bits === null) return keep(`${name}.weight`, shape)
      const groupSize = Math.min(settings.groupSize, spec.hiddenSize)
      const groupBits = new Uint8Array(Math.ceil(spec.hiddenSize / groupSize)).fill(bits)
      const weight = await this.load(`${name}.weight`, shape)
      const fit = { groupSize, quantizer: settings.recipe.quantizer }
      const packed = await run(
        this.context.backend.fitGroups(weight, groupBits, fit, this.context.threads),
        this.options.signal,
      )
      weight.dispose()
      entries.push(...packedEntries(name, packed))
      layers.push(layerReport(name, packed, { groupBits, ...NOTHING_MEASURED }))
    }
    await table(spec.embedding.name, settings.embeddingBits)
    if (!spec.head.tied) await table(spec.head.name, settings.headBits)
    if (spec.positions) await keep(`${spec.positions.name}.weight`)
    if (spec.finalNorm) await keep(`${spec.finalNorm.name}.weight`, [spec.hiddenSize])
    if (spec.finalNorm?.bias) await keep(`${spec.finalNorm.name}.bias`, [spec.hiddenSize])
    await this.writer.writeShard(entries, { layers, allocation, seconds, elapsed: secondsSince(started) })
  }

  private async quantizeBlocks(): Promise<void> {
    const { samples, spec } = this
    using handles = new Handles()
    using done = await this.writer.openDone(this.packedConfig())
    const tables = this.settings.embeddingBits === null ? this.checkpoint : done
    const sources = { original: this.checkpoint, tables }
    const context = { ...this.context, spillFolder: this.writer.folder }
    const calibration = samples && (await startCalibration(sources, spec, samples, context, handles))
    await this.replayJournaled(done, calibration)
    for (const block of spec.blocks.slice(this.writer.done.length - 1))
      await this.quantizeBlock(block, calibration)
  }

  /** Of blocks that an interrupted run has finished, only the effect on the states is needed. */
  private async replayJournaled(done: Checkpoint, calibration: CalibrationStates | null): Promise<void> {
    const blocks = this.spec.blocks.slice(0, this.writer.done.length - 1)
    if (!calibration) return
    for (const block of blocks) {
      this.progress(block, 'propagate')
      const weights = await loadBlockWeights(done, block)
      await forward(block, weights, calibration, this.context)
      disposeWeights(weights)
      if (calibration.staged?.original)
        await this.replayOriginal(block, { ...calibration, states: calibration.staged.original.states })
    }
  }

  private async replayOriginal(block: DecoderBlockSpec, calibration: CalibrationStates): Promise<void> {
    const weights = await loadBlockWeights(this.checkpoint, block)
    await forward(block, weights, calibration, this.context)
    disposeWeights(weights)
  }

  private async quantizeBlock(block: DecoderBlockSpec, calibration: CalibrationStates | null): Promise<void> {
    const started = performance.now()
    const seconds = noSeconds()
    const context = {
      ...this.context,
      onLayer: (layer: string) => this.progress(block, 'quantize', layer),
      onPropagate: () => this.progress(block, 'propagate'),
    }
    const weights = await this.loadBlock(block)
    try {
      this.progress(block, 'calibrate')
      const layers = await quantizeBlock(block, weights, calibration, context, seconds)
      const elapsed = secondsSince(started)
      await this.writer.writeShard(blockEntries(block, weights), { layers, seconds, elapsed })
    } finally {
      disposeWeights(weights)
    }
  }

  /** A block's weights from the source, looked through for NaN and infinity. */
  private async loadBlock(block: DecoderBlockSpec): Promise<BlockWeights> {
    const weights = await loadBlockWeights(this.checkpoint, block)
    for (const { name, tensor } of denseTensors(block, weights)) await this.requireFinite(tensor, name)
    return weights
  }

  private async load(name: string, shape?: number[]): Promise<NativeTensor> {
    const { checkpoint } = this
    const tensor = await (shape ? checkpoint.requireTensor(name, shape) : checkpoint.tensor(name))
    await this.requireFinite(tensor, name)
    return tensor
  }

  private requireFinite(tensor: NativeTensor, name: string): Promise<void> {
    const { file } = this.checkpoint.tensors.get(name)!
    return requireFinite(tensor, name, file, this.context.threads)
  }

  private progress(block: { index: number }, phase: QuantizeProgress['phase'], layer?: string): void {
    const blocks = this.spec.blocks.length
    const done = this.writer.done.slice(1)
    const replayed = phase === 'resume' ? 0 : block.index
    const secondsLeft = estimateSecondsLeft(done, { blocks, resumed: this.resumedBlocks, replayed })
    this.options.onProgress?.({
      block: block.index,
      blocks,
      phase,
      layer,
      seconds: this.elapsed(),
      secondsLeft,
    })
  }

  private elapsed(): number {
    return secondsSince(this.started)
  }

  private async finish(sourceHash: string): Promise<QuantizeReport> {
    const { spec, settings, options, samples, writer } = this
    const blocks = spec.blocks.length
    const seconds = this.elapsed()
    options.onProgress?.({ block: blocks, blocks, phase: 'finish', seconds, secondsLeft: 0 })
    const layers = writer.done.flatMap((entry) => entry.layers)
    const manifest: Manifest = {
      format: 'slimllm',
      formatVersion: FORMAT_VERSION,
      slimllmVersion: packageVersion(),
      instructionSet: this.context.backend.kernels,
      source: { modelType: spec.modelType, sha256: sourceHash },
      settings: { ...settings, givenBitMap: this.bitMap !== null },
      calibration: samples && {
        samples: samples.samples,
        seqLen: samples.seqLen,
        seed: options.calibration?.offsets ? null : (options.calibration?.seed ?? 0),
        offsets: samples.offsets,
        sha256: samples.hash,
      },
      storedBitsPerWeight: storedBitsPerWeight(layers),
      codeBitsPerWeight: meanCodeBits(layers),
      fileBytes: writer.done.reduce((sum, entry) => sum + entry.bytes, 0),
      layers,
      seconds: {
        total: seconds + this.earlierSeconds,
        ...writer.done.map((entry) => entry.seconds).reduce(addSeconds, noSeconds()),
      },
    }
    await writer.finish(this.packedConfig(), manifest, await this.checkpoint.auxiliary())
    return {
      ...manifest,
      output: options.output,
      peakMemoryBytes: process.resourceUsage().maxRSS * 1024,
      peakDeviceBytes: this.context.backend.peakDeviceBytes(),
    }
  }

  /** The source's config.json with what a reader of the packed layers needs. */
  private packedConfig(): Record<string, unknown> {
    const { bits, groupSize } = this.settings
    const layers = this.writer.done.flatMap((entry) => entry.layers)
    const others = layers.filter((layer) => layer.groupSize !== groupSize)
    const quantization: QuantizationConfig = {
      quant_method: 'slim',
      format_version: FORMAT_VERSION,
      bits,
      group_size: groupSize,
      module_group_sizes: Object.fromEntries(others.map((layer) => [layer.name, layer.groupSize])),
    }
    return { ...this.checkpoint.config, quantization_config: quantization }
  }
}
