/** A model as it lies on disk, whatever the format: configuration, lazy tensors, tokenizer. */
import path from 'node:path'
import { SlimError } from '../errors.js'
import { kindOf } from '../files.js'
import type { NativeTensor } from '../native/addon.js'
import { GgufCheckpoint } from './gguf_checkpoint.js'
import { HuggingFaceCheckpoint } from './huggingface.js'
import type { TensorInfo } from './tensor_info.js'

export interface TokenizerFiles {
  /** tokenizer.json */
  json: Record<string, unknown>
  /** tokenizer_config.json; empty when there is none */
  config: Record<string, unknown>
  /** chat_template.jinja, where there is one. */
  chatTemplate?: string
}

/** A small file that belongs to the model beside config.json and the weights. */
export interface AuxiliaryFile {
  name: string
  bytes: Uint8Array
}

export interface Checkpoint extends Disposable {
  readonly path: string
  readonly format: 'huggingface' | 'gguf'
  /** config.json, or what it would be. */
  readonly config: Readonly<Record<string, unknown>>
  /** generation_config.json; empty when there is none. */
  readonly generationConfig: Readonly<Record<string, unknown>>
  /** By Hugging Face's names. */
  readonly tensors: ReadonlyMap<string, TensorInfo>
  /** null when the checkpoint has none. Throws SLIM_UNSUPPORTED_TOKENIZER for one that cannot be rebuilt. */
  readonly tokenizer: TokenizerFiles | null
  /**
   * The tensor as F32, F16, BF16, I32 or U8 in Hugging Face's row order: a view of the mapped file where the bytes
   * allow it. The caller disposes it; it stays usable when the checkpoint is disposed.
   */
  tensor(name: string): Promise<NativeTensor>
  /** The same, and an error unless it has this shape and one of these dtypes (the float dtypes by default). */
  requireTensor(name: string, shape: readonly number[], dtypes?: readonly string[]): Promise<NativeTensor>
  /** The bytes of the tensor that `tensor(name)` gives, of any dtype, in chunks. */
  tensorBytes(name: string): AsyncIterable<Uint8Array>
  /** SHA-256, in hexadecimal, over configuration and weights: what a resumed run compares. */
  sourceHash(signal?: AbortSignal): Promise<string>
  /** What a folder written from this checkpoint holds beside config.json and the weights. */
  auxiliary(): Promise<AuxiliaryFile[]>
  dispose(): void
}

export interface OpenOptions {
  /** Threads that decode GGUF blocks. */
  threads?: number
}

/** Opens a Hugging Face folder or a GGUF file. Headers are read and checked here, weights when they are asked for. */
export async function openCheckpoint(
  location: string,
  { threads = 1 }: OpenOptions = {},
): Promise<Checkpoint> {
  if (typeof location !== 'string' || location === '')
    throw SlimError.invalidArgument('path', 'the path of a model folder or .gguf file', location)
  const kind = await kindOf(location)
  if (kind === 'directory') return HuggingFaceCheckpoint.open(location)
  if (kind === 'file' && path.extname(location).toLowerCase() === '.gguf')
    return GgufCheckpoint.open(location, threads)
  const lookedFor = 'a folder with config.json and *.safetensors (Hugging Face), or a .gguf file'
  if (kind === null)
    throw new SlimError(
      'SLIM_FILE_NOT_FOUND',
      `There is no checkpoint at ${location}: looked for ${lookedFor}`,
      {
        file: location,
        expected: lookedFor,
      },
    )
  throw new SlimError('SLIM_UNSUPPORTED_FORMAT', `${location} is not a checkpoint: expected ${lookedFor}`, {
    file: location,
    expected: lookedFor,
    remedy: location.endsWith('.safetensors') ? 'Give the folder that the file lies in' : undefined,
  })
}
