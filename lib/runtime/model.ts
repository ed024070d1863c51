/** A model that runs: a packed folder, or an unquantized checkpoint. */
import { decoderSpec } from '../architecture/index.js'
import type { DecoderSpec } from '../architecture/spec.js'
import { type Checkpoint, openCheckpoint } from '../checkpoint/checkpoint.js'
import { SlimError } from '../errors.js'
import { addon, type NativeDecoderBlock, type NativeDecoderModel, run } from '../native/addon.js'
import { checkDevice, checkThreads } from '../quantize/options.js'
import { type GeneratedToken, type GenerateOptions, generateTokens } from './generate.js'
import { loadTokenizer, type Tokenizer } from './tokenizer.js'
import { loadBlockWeights, loadMatrix, loadNorm } from './weights.js'

export interface LoadOptions {
  device?: 'auto' | 'cpu' | 'cuda'
  /** Threads of the native code (default: all cores). */
  threads?: number
}

/** Opens a packed folder, a Hugging Face folder, or a GGUF file. */
export async function loadModel(source: string, options: LoadOptions = {}): Promise<Model> {
  checkDevice(options.device)
  const threads = checkThreads(options.threads)
  const checkpoint = await openCheckpoint(source, { threads })
  try {
    const spec = decoderSpec(checkpoint.config)
    const blocks: NativeDecoderBlock[] = []
    for (const block of spec.blocks)
      blocks.push(new (addon().DecoderBlock)(block.spec, await loadBlockWeights(checkpoint, block)))
    return new Model(checkpoint, spec, await buildDecoder(checkpoint, spec, blocks), threads)
  } catch (error) {
    checkpoint.dispose()
    throw SlimError.from(error, { file: source })
  }
}

/** The native model around given blocks. */
export async function buildDecoder(
  checkpoint: Checkpoint,
  spec: DecoderSpec,
  blocks: NativeDecoderBlock[],
): Promise<NativeDecoderModel> {
  const table = { rows: spec.vocabSize, cols: spec.hiddenSize }
  const embedding = await loadMatrix(checkpoint, { name: spec.embedding.name, ...table })
  return new (addon().DecoderModel)({
    embedding,
    embeddingScale: spec.embedding.scale,
    positions: spec.positions
      ? {
          weight: await checkpoint.tensor(`${spec.positions.name}.weight`),
          offset: spec.positions.offset,
        }
      : undefined,
    blocks,
    finalNorm: spec.finalNorm ? await loadNorm(checkpoint, spec.finalNorm, spec.hiddenSize) : undefined,
    head: spec.head.tied ? embedding : await loadMatrix(checkpoint, { name: spec.head.name, ...table }),
    logitSoftcap: spec.logitSoftcap,
  })
}

export class Model implements AsyncDisposable {
  #tokenizer?: Tokenizer
  #native: NativeDecoderModel | null

  /** Made by loadModel. */
  constructor(
    readonly checkpoint: Checkpoint,
    readonly spec: DecoderSpec,
    native: NativeDecoderModel,
    readonly threads: number,
  ) {
    this.#native = native
  }

  get tokenizer(): Tokenizer {
    this.#tokenizer ??= loadTokenizer(this.checkpoint)
    return this.#tokenizer
  }

  /** The native model, for the layers below; throws SLIM_DISPOSED after dispose(). */
  get native(): NativeDecoderModel {
    if (!this.#native) throw new SlimError('SLIM_DISPOSED', 'The model is disposed')
    return this.#native
  }

  /** Logits of one sequence, float32 [tokenIds.length, vocabSize], row after row. */
  async logits(tokenIds: ArrayLike<number>, options: { signal?: AbortSignal } = {}): Promise<Float32Array> {
    return run(this.native.logits(Int32Array.from(tokenIds), this.threads), options.signal)
  }

  /** Continues a prompt; `break` or the signal ends it. */
  generate(
    prompt: string | ArrayLike<number>,
    options: GenerateOptions = {},
  ): AsyncGenerator<GeneratedToken> {
    return generateTokens(this, prompt, options)
  }

  async dispose(): Promise<void> {
    this.#native?.dispose()
    this.#native = null
    this.checkpoint.dispose()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose()
  }
}
