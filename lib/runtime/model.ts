/** A model that runs: a packed folder, or an unquantized checkpoint. */
import type { DecoderSpec } from '../architecture/spec.js'
import { type Checkpoint, openCheckpoint } from '../checkpoint/checkpoint.js'
import { SlimError } from '../errors.js'
import {
  type Activations,
  addon,
  type ModelParts,
  type NativeDecoderBlock,
  type NativeDecoderModel,
  run,
} from '../native/addon.js'
import { checkThreads, type Device, isCuda } from '../native/device.js'
import { Handles } from '../native/handles.js'
import type { ChatMessage } from './chat_template.js'
import { checkNames, type GenerateOptions, givenOptions } from './generate_options.js'
import { type Generation, SequenceGeneration } from './generation.js'
import type { Scheduler } from './scheduler.js'
import {
  BatchSession,
  beginChat,
  beginText,
  type ChatOptions,
  openBatch,
  type Session,
  type SessionOptions,
} from './session.js'
import { modelKey, shareModel } from './shared_model.js'
import { checkTokenIds } from './token_ids.js'
import { loadTokenizer, type Tokenizer } from './tokenizer.js'
import { checkpointSpec, loadBlockWeights, loadEmbedding, loadMatrix, loadNorm } from './weights.js'

export interface LoadOptions {
  device?: Device
  /** Threads of the native code (default: all cores). */
  threads?: number
  /**
   * How packed layers are multiplied: with inputs rounded to int8, one scale a group (default), or exactly in float32,
   * which is slower. On device 'cuda' they are rounded to 11 bits, and this option is refused.
   */
  activations?: Activations
  /** Ends the loading between two blocks. */
  signal?: AbortSignal
}

/** An ArrayBuffer of 4 GiB or more ends the process on some versions of Node. */
const MOST_ARRAY_BYTES = 2 ** 32 - 1

/** Opens a packed folder, a Hugging Face folder, or a GGUF file. */
export async function loadModel(source: string, options: LoadOptions = {}): Promise<Model> {
  checkNames(options, ['device', 'threads', 'activations', 'signal'])
  const cuda = isCuda(options.device)
  const threads = checkThreads(options.threads)
  const { activations = 'int8', signal } = options
  if (activations !== 'int8' && activations !== 'float32')
    throw SlimError.invalidArgument('activations', "'int8' or 'float32'", activations)
  if (cuda && options.activations)
    throw SlimError.invalidArgument('activations', "nothing, on device 'cuda'", activations, 'Leave it out')
  const checkpoint = await openCheckpoint(source, { threads })
  try {
    const spec = checkpointSpec(checkpoint)
    const key = await modelKey(checkpoint, cuda ? { device: 'cuda' } : { activations })
    const loading: Loading = { checkpoint, spec, threads, signal }
    const load = () => (cuda ? loadOnDevice(loading) : loadDecoder(loading, activations))
    return new Model(checkpoint, spec, await shareModel(key, load, signal), threads, cuda ? 'cuda' : 'cpu')
  } catch (error) {
    checkpoint.dispose()
    throw SlimError.from(error, { file: source })
  }
}

interface Loading {
  checkpoint: Checkpoint
  spec: DecoderSpec
  threads: number
  signal: AbortSignal | undefined
}

/** The native blocks in their order, each of which the caller disposes. */
async function* loadBlocks({ checkpoint, spec, signal }: Loading): AsyncGenerator<NativeDecoderBlock> {
  for (const block of spec.blocks) {
    if (signal?.aborted)
      throw new SlimError('SLIM_ABORTED', `Loading ${checkpoint.path} was aborted`, { cause: signal.reason })
    using handles = new Handles()
    const weights = handles.ownBlock(await loadBlockWeights(checkpoint, block))
    yield new (addon().DecoderBlock)(block.spec, weights)
  }
}

async function loadDecoder(loading: Loading, activations: Activations): Promise<NativeDecoderModel> {
  using handles = new Handles()
  const blocks: NativeDecoderBlock[] = []
  for await (const block of loadBlocks(loading)) blocks.push(handles.own(block))
  const native = await buildDecoder(loading.checkpoint, loading.spec, blocks, activations)
  try {
    await run(native.prepare(loading.threads), loading.signal)
    return native
  } catch (error) {
    native.dispose()
    throw error
  }
}

/** Block by block: one block's weights at a time are in host memory, beside what is mapped. */
async function loadOnDevice(loading: Loading): Promise<NativeDecoderModel> {
  const { checkpoint, spec, threads, signal } = loading
  using handles = new Handles()
  const device = handles.own(new (addon().CudaDevice)(0))
  const builder = handles.own(new (addon().CudaModelBuilder)(device))
  for await (const block of loadBlocks(loading)) {
    using added = new Handles()
    await run(builder.addBlock(added.own(block), threads), signal)
  }
  return run(builder.finish(await loadOuterParts(checkpoint, spec, handles), threads), signal)
}

/** What is around the blocks; `handles` own it. */
async function loadOuterParts(
  checkpoint: Checkpoint,
  spec: DecoderSpec,
  handles: Handles,
): Promise<Omit<ModelParts, 'blocks' | 'activations'>> {
  const { finalNorm, head, vocabSize: rows, hiddenSize: cols } = spec
  const parts = await loadEmbedding(checkpoint, spec, handles)
  return {
    ...parts,
    finalNorm: finalNorm
      ? handles.ownModule(await loadNorm(checkpoint, finalNorm, spec.hiddenSize))
      : undefined,
    head: head.tied
      ? parts.embedding
      : handles.own(await loadMatrix(checkpoint, { name: head.name, rows, cols })),
    logitSoftcap: spec.logitSoftcap,
  }
}

/** The native model around given blocks, which it shares. */
export async function buildDecoder(
  checkpoint: Checkpoint,
  spec: DecoderSpec,
  blocks: NativeDecoderBlock[],
  activations: Activations = 'float32',
): Promise<NativeDecoderModel> {
  using handles = new Handles()
  const parts = await loadOuterParts(checkpoint, spec, handles)
  return new (addon().DecoderModel)({ ...parts, blocks, activations })
}

export class Model implements AsyncDisposable {
  #tokenizer?: Tokenizer
  #native: NativeDecoderModel | null
  /** What has caches of this model. */
  readonly #holders = new Set<Scheduler>()

  /** Made by loadModel. */
  constructor(
    readonly checkpoint: Checkpoint,
    readonly spec: DecoderSpec,
    native: NativeDecoderModel,
    readonly threads: number,
    /** Where it runs. */
    readonly device: 'cpu' | 'cuda',
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
    const { vocabSize } = this.spec
    const most = Math.floor(MOST_ARRAY_BYTES / (4 * vocabSize))
    if (tokenIds?.length > most)
      throw SlimError.invalidArgument(
        'tokenIds',
        `at most ${most} tokens (their logits fill 4 GiB, the most that one array holds)`,
        `${tokenIds.length} tokens`,
        'Use evaluatePerplexity, which keeps no logits, or give shorter sequences',
      )
    const ids = checkTokenIds('tokenIds', tokenIds, this.spec)
    return run(this.native.logits(ids, this.threads), options.signal)
  }

  /** Continues a prompt; `break` or the signal ends it. A text gets special tokens, token ids are taken as they are. */
  generate(prompt: string | ArrayLike<number>, options: GenerateOptions = {}): Generation {
    const { kvCache, ...others } = givenOptions(options)
    return new SequenceGeneration(() => beginText(this.#batchOfOne(kvCache), prompt, others))
  }

  /** Answers a chat, in the words of the model's chat template. */
  chat(messages: readonly ChatMessage[], options: ChatOptions = {}): Generation {
    const { kvCache, ...others } = givenOptions(options)
    return new SequenceGeneration(() => beginChat(this.#batchOfOne(kvCache), messages, others))
  }

  /** For many texts at once, and for chats whose turns reuse what was computed for those before. */
  session(options: SessionOptions = {}): Session {
    return new BatchSession(this, options, this.#holders)
  }

  /** It holds nothing once its one sequence has ended. */
  #batchOfOne(kvCache: GenerateOptions['kvCache']) {
    return openBatch(this, { maxSequences: 1, keptCaches: 0, kvCache }, this.#holders)
  }

  async dispose(): Promise<void> {
    const native = this.#native
    this.#native = null
    await Promise.all([...this.#holders].map((scheduler) => scheduler.dispose()))
    native?.dispose()
    this.checkpoint.dispose()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose()
  }
}
