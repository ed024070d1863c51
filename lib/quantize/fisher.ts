/**
 * The Fisher information of every output of every linear layer: f_o = mean over tokens of (∂L/∂y_o)², L the sum of a
 * window's token losses −ln p(label). Block by block: forward with every block's input states kept, then the head,
 * then the blocks from last to first with their values recomputed.
 */
import type { DecoderBlockSpec, DecoderSpec } from '../architecture/spec.js'
import type { CalibrationSamples } from '../calibration/samples.js'
import type { Checkpoint } from '../checkpoint/checkpoint.js'
import { SlimError } from '../errors.js'
import {
  addon,
  type BlockGradients,
  type BlockWeights,
  type HeadGradient,
  type NativeTensor,
  run,
  type TapName,
} from '../native/addon.js'
import { checkThreads } from '../native/device.js'
import { Handles } from '../native/handles.js'
import { disposeWeights, loadBlockWeights, loadMatrix, loadNorm } from '../runtime/weights.js'
import type { Hessians } from './block.js'
import { embedSamples, SPILL_BYTES } from './embed.js'

export interface FisherProgress {
  phase: 'forward' | 'head' | 'backward'
  /** Of `blocks`, counted in the direction of the phase. */
  block: number
  blocks: number
  /** Of `chunks`. */
  chunk: number
  chunks: number
}

export interface BlockFisher {
  /** f_o [rows] by layer name. */
  fisher: Map<string, Float64Array>
  /** Of every token of all windows, the mean of (∂L/∂y_o)² over the outputs of the layers on a tap. */
  tokenPowers: Partial<Record<TapName, Float32Array>>
  /** H of the layers' inputs over all windows, if `hessians`; disposed after onBlock. */
  hessians: Hessians
}

export interface FisherOptions {
  /** Drawn from the model itself (the true Fisher information, the default), or the text's own next tokens. */
  labels?: 'sampled' | 'text'
  /** Of the drawn labels (default 0); they do not depend on chunks, threads or tiles. */
  seed?: number
  /** Windows that are in memory at a time (default 8): their states before every block, float32. */
  chunkWindows?: number
  /** Keeps these states in unlinked files of this folder when they are more than a gigabyte. */
  spillFolder?: string
  /**
   * Gathers the Hessians on the way back, keeping every `keepEvery`-th row of X. With several chunks those of all
   * blocks exist at once.
   */
  hessians?: { keepEvery: number }
  /** The weights of a block; by default as the checkpoint has them. Called twice a chunk, disposed each time. */
  loadBlock?: (block: DecoderBlockSpec) => Promise<BlockWeights>
  /** Called for every block from last to first, when what is gathered of it is complete. */
  onBlock?: (block: DecoderBlockSpec, weights: BlockWeights, gathered: BlockFisher) => Promise<void> | void
  onProgress?: (progress: FisherProgress) => void
  threads?: number
  signal?: AbortSignal
}

export interface FisherInformation {
  /** f_o [rows] by layer name. */
  fisher: Map<string, Float64Array>
  /** L over all windows, and the number of its terms: one a token but the last of every window. */
  nll: number
  count: number
}

export async function fisherInformation(
  checkpoint: Checkpoint,
  spec: DecoderSpec,
  samples: CalibrationSamples,
  options: FisherOptions = {},
): Promise<FisherInformation> {
  return await new FisherWalk(checkpoint, spec, samples, options).run()
}

/** What has been gathered of a block so far: sums over tokens, not means. */
type Gathered = BlockFisher

class FisherWalk {
  private readonly threads: number
  private readonly chunkWindows: number
  private readonly chunks: number
  private readonly gathered = new Map<number, Gathered>()
  private readonly result: FisherInformation = { fisher: new Map(), nll: 0, count: 0 }

  constructor(
    private readonly checkpoint: Checkpoint,
    private readonly spec: DecoderSpec,
    private readonly samples: CalibrationSamples,
    private readonly options: FisherOptions,
  ) {
    const { chunkWindows = 8 } = options
    if (!Number.isInteger(chunkWindows) || chunkWindows < 1)
      throw SlimError.invalidArgument('chunkWindows', 'a whole number from 1 up', chunkWindows)
    this.threads = checkThreads(options.threads)
    this.chunkWindows = chunkWindows
    this.chunks = Math.ceil(samples.samples / chunkWindows)
  }

  async run(): Promise<FisherInformation> {
    try {
      for (let chunk = 0; chunk < this.chunks; chunk++) await this.walk(chunk)
    } finally {
      for (const { hessians } of this.gathered.values()) disposeHessians(hessians)
    }
    return this.result
  }

  /** One chunk of windows forward and back. */
  private async walk(chunk: number): Promise<void> {
    const { blocks } = this.spec
    const { seqLen } = this.samples
    const firstToken = chunk * this.chunkWindows * seqLen
    const ids = this.samples.ids.subarray(firstToken, firstToken + this.chunkWindows * seqLen)
    using handles = new Handles()
    const embedded = embedSamples(
      this.checkpoint,
      this.spec,
      { ids, seqLen },
      { spillFolder: null, threads: this.threads, signal: this.options.signal },
    )
    const states = handles.own(await embedded)
    const inputs: NativeTensor[] = []
    for (const block of blocks) {
      this.progress('forward', block.index, chunk)
      inputs.push(handles.own(await this.copy(states)))
      await this.withBlock(block, (native) =>
        this.job(native.forward(states, { sequenceLength: seqLen }, this.threads)),
      )
    }
    this.progress('head', 0, chunk)
    const { gradients, nll, count } = await this.headGradient(states, ids, firstToken)
    handles.own(gradients)
    states.dispose()
    this.result.nll += nll
    this.result.count += count
    for (const block of [...blocks].reverse()) {
      this.progress('backward', blocks.length - 1 - block.index, chunk)
      const input = inputs.pop()!
      await this.withBlock(block, async (native, weights) => {
        const gathered = this.gatheredOf(block)
        const { hessians: taps } = gathered
        const job = native.backward(
          input,
          gradients,
          { sequenceLength: seqLen, fisher: true, taps },
          this.threads,
        )
        this.gather(block, gathered, await this.job(job), firstToken)
        input.dispose()
        if (chunk === this.chunks - 1) await this.complete(block, weights, gathered)
      })
    }
  }

  /** The states before a block; of all blocks together they may be larger than memory. */
  private async copy(states: NativeTensor): Promise<NativeTensor> {
    const bytes = states.byteLength * this.spec.blocks.length
    const spill = bytes > SPILL_BYTES ? (this.options.spillFolder ?? null) : null
    return await this.job(addon().convertTensor(states, 'F32', this.threads, spill))
  }

  private async withBlock<T>(
    block: DecoderBlockSpec,
    use: (
      native: InstanceType<ReturnType<typeof addon>['DecoderBlock']>,
      weights: BlockWeights,
    ) => Promise<T>,
  ): Promise<T> {
    const { signal } = this.options
    // A small block may be done before its job sees the signal.
    if (signal?.aborted)
      throw new SlimError('SLIM_ABORTED', 'The Fisher information was aborted', { cause: signal.reason })
    const weights = await (this.options.loadBlock?.(block) ?? loadBlockWeights(this.checkpoint, block))
    const native = new (addon().DecoderBlock)(block.spec, weights)
    try {
      return await use(native, weights)
    } finally {
      native.dispose()
      disposeWeights(weights)
    }
  }

  private async headGradient(
    states: NativeTensor,
    ids: Int32Array,
    firstToken: number,
  ): Promise<HeadGradient> {
    const { finalNorm, head, hiddenSize, vocabSize, logitSoftcap, blocks } = this.spec
    using handles = new Handles()
    const matrix = { name: head.name, rows: vocabSize, cols: hiddenSize }
    const job = addon().headGradient(
      states,
      {
        sequenceLength: this.samples.seqLen,
        head: handles.own(await loadMatrix(this.checkpoint, matrix)),
        finalNorm: finalNorm
          ? handles.ownModule(await loadNorm(this.checkpoint, finalNorm, hiddenSize))
          : undefined,
        norm: blocks[0]!.spec.norm,
        logitSoftcap,
        // A window's last token has no label: what stands there is not looked at.
        labels: this.options.labels === 'text' ? Int32Array.from(ids, (_, t) => ids[t + 1] ?? 0) : undefined,
        seed: this.options.seed,
        firstToken,
      },
      this.threads,
    )
    return await this.job(job)
  }

  private gatheredOf(block: DecoderBlockSpec): Gathered {
    let gathered = this.gathered.get(block.index)
    if (!gathered) {
      gathered = { fisher: new Map(), tokenPowers: {}, hessians: {} }
      this.gathered.set(block.index, gathered)
      for (const { name, rows, tap, cols } of block.linears) {
        gathered.fisher.set(name, new Float64Array(rows))
        gathered.tokenPowers[tap] ??= new Float32Array(this.samples.ids.length)
        if (this.options.hessians)
          gathered.hessians[tap] ??= new (addon().Hessian)(cols, this.options.hessians.keepEvery)
      }
    }
    return gathered
  }

  private gather(
    block: DecoderBlockSpec,
    gathered: Gathered,
    { fisher, tokenPowers }: BlockGradients,
    firstToken: number,
  ): void {
    for (const { role, name, tap } of block.linears) {
      const sums = gathered.fisher.get(name)!
      fisher[role]!.forEach((sum, o) => {
        sums[o]! += sum
      })
      gathered.tokenPowers[tap]!.set(tokenPowers[tap]!, firstToken)
    }
  }

  private async complete(block: DecoderBlockSpec, weights: BlockWeights, gathered: Gathered): Promise<void> {
    const tokens = this.samples.ids.length
    for (const [name, sums] of gathered.fisher)
      this.result.fisher.set(
        name,
        sums.map((sum) => sum / tokens),
      )
    const fisher = new Map([...gathered.fisher.keys()].map((name) => [name, this.result.fisher.get(name)!]))
    await this.options.onBlock?.(block, weights, { ...gathered, fisher })
    disposeHessians(gathered.hessians)
    this.gathered.delete(block.index)
  }

  private job<T>(job: { promise: Promise<T>; cancel(): void }): Promise<T> {
    return run(job, this.options.signal)
  }

  private progress(phase: FisherProgress['phase'], block: number, chunk: number): void {
    this.options.onProgress?.({ phase, block, blocks: this.spec.blocks.length, chunk, chunks: this.chunks })
  }
}

function disposeHessians(hessians: Hessians): void {
  for (const hessian of Object.values(hessians)) hessian.dispose()
}
