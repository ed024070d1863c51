/**
 * The Fisher information of every output of every linear layer: f_o = mean over tokens of (∂L/∂y_o)², L the sum of a
 * window's token losses −ln p(label). Block by block: forward with every block's input states kept, then the head,
 * then the blocks from last to first with their values recomputed.
 */
import type { DecoderBlockSpec, DecoderSpec } from '../architecture/spec.js'
import type { CalibrationSamples } from '../calibration/samples.js'
import type { Checkpoint } from '../checkpoint/checkpoint.js'
import {
  type BlockGradients,
  type BlockWeights,
  type CalibrationBlock,
  type HeadGradient,
  run,
  type TapName,
} from '../native/addon.js'
import { checkThreads } from '../native/device.js'
import { Handles } from '../native/handles.js'
import { disposeWeights, loadBlockWeights, loadMatrix, loadNorm } from '../runtime/weights.js'
import { type Backend, type CalibrationRows, cpuBackend } from './backend.js'
import type { Hessians } from './block.js'
import { embedSamples, SPILL_BYTES } from './states.js'

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
  /** Of the drawn labels (default 0); they do not depend on threads or tiles. */
  seed?: number
  /** Keeps the states before every block in unlinked files of this folder when they are more than a gigabyte. */
  spillFolder?: string
  /** Gathers the Hessians on the way back, keeping every `keepEvery`-th row of X. */
  hessians?: { keepEvery: number }
  /** The weights of a block; by default as the checkpoint has them. Called twice a block, disposed each time. */
  loadBlock?: (block: DecoderBlockSpec) => Promise<BlockWeights>
  /** Called for every block from last to first. */
  onBlock?: (block: DecoderBlockSpec, weights: BlockWeights, gathered: BlockFisher) => Promise<void> | void
  /** Before every step: `done` of `of`, a block forward or back each. */
  onProgress?: (progress: { done: number; of: number }) => void
  /** Where it is computed, by default on the CPU. */
  backend?: Backend
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

class FisherWalk {
  private readonly threads: number
  private readonly backend: Backend

  constructor(
    private readonly checkpoint: Checkpoint,
    private readonly spec: DecoderSpec,
    private readonly samples: CalibrationSamples,
    private readonly options: FisherOptions,
  ) {
    this.threads = checkThreads(options.threads)
    this.backend = options.backend ?? cpuBackend(this.threads)
  }

  async run(): Promise<FisherInformation> {
    const { blocks } = this.spec
    const { seqLen: sequenceLength } = this.samples
    let done = 0
    const progress = () => this.options.onProgress?.({ done: done++, of: 2 * blocks.length })
    using handles = new Handles()
    const embedded = await embedSamples(this.checkpoint, this.spec, this.samples, {
      spillFolder: null,
      threads: this.threads,
      signal: this.options.signal,
    })
    const states = handles.own(await this.backend.rows(embedded, null))
    const inputs: CalibrationRows[] = []
    for (const block of blocks) {
      progress()
      inputs.push(handles.own(await this.copy(states)))
      await this.withBlock(block, (native) =>
        this.job(native.forward(states, { sequenceLength }, this.threads)),
      )
    }
    const { gradients, nll, count } = await this.headGradient(states)
    handles.own(gradients)
    states.dispose()
    const result: FisherInformation = { fisher: new Map(), nll, count }
    for (const block of blocks.toReversed()) {
      progress()
      const input = inputs.pop()!
      await this.withBlock(block, async (native, weights) => {
        using own = new Handles()
        const taps = this.newHessians(block, own)
        const options = { sequenceLength, fisher: true, taps }
        const gathered = await this.job(native.backward(input, gradients, options, this.threads))
        input.dispose()
        const fisher = this.meanByLayer(block, gathered)
        for (const [name, rows] of fisher) result.fisher.set(name, rows)
        const { tokenPowers } = gathered
        await this.options.onBlock?.(block, weights, { fisher, tokenPowers, hessians: taps })
      })
    }
    return result
  }

  /** The states before a block; of all blocks together they may be larger than memory. */
  private copy(states: CalibrationRows): Promise<CalibrationRows> {
    const bytes = 4 * this.samples.ids.length * this.spec.hiddenSize * this.spec.blocks.length
    return this.backend.copyRows(states, bytes > SPILL_BYTES ? (this.options.spillFolder ?? null) : null)
  }

  private async withBlock<T>(
    block: DecoderBlockSpec,
    use: (native: CalibrationBlock<CalibrationRows>, weights: BlockWeights) => Promise<T>,
  ): Promise<T> {
    const weights = await (this.options.loadBlock?.(block) ?? loadBlockWeights(this.checkpoint, block))
    try {
      using handles = new Handles()
      return await use(handles.own(await this.backend.block(block.spec, weights)), weights)
    } finally {
      disposeWeights(weights)
    }
  }

  private async headGradient(states: CalibrationRows): Promise<HeadGradient<CalibrationRows>> {
    const { ids, seqLen } = this.samples
    const { finalNorm, head, hiddenSize, vocabSize, logitSoftcap, blocks } = this.spec
    using handles = new Handles()
    const matrix = { name: head.name, rows: vocabSize, cols: hiddenSize }
    const job = this.backend.headGradient(
      states,
      {
        sequenceLength: seqLen,
        head: handles.own(await loadMatrix(this.checkpoint, matrix)),
        finalNorm: finalNorm
          ? handles.ownModule(await loadNorm(this.checkpoint, finalNorm, hiddenSize))
          : undefined,
        norm: blocks[0]!.spec.norm,
        logitSoftcap,
        // A window's last token has no label: what stands there is not looked at.
        labels: this.options.labels === 'text' ? Int32Array.from(ids, (_, t) => ids[t + 1] ?? 0) : undefined,
        seed: this.options.seed,
      },
      this.threads,
    )
    return await this.job(job)
  }

  private newHessians(block: DecoderBlockSpec, handles: Handles): Hessians {
    const { hessians } = this.options
    const taps: Hessians = {}
    if (hessians)
      for (const { tap, cols } of block.linears)
        taps[tap] ??= handles.own(this.backend.hessian(cols, hessians.keepEvery))
    return taps
  }

  /** From sums over tokens by role to means by layer name. */
  private meanByLayer(block: DecoderBlockSpec, { fisher }: BlockGradients): Map<string, Float64Array> {
    const tokens = this.samples.ids.length
    return new Map(block.linears.map(({ role, name }) => [name, fisher[role]!.map((sum) => sum / tokens)]))
  }

  private job<T>(job: { promise: Promise<T>; cancel(): void }): Promise<T> {
    return run(job, this.options.signal)
  }
}
