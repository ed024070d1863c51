/** A GGUF file as a checkpoint: blocks are decoded tensor by tensor, when they are asked for. */
import { SlimError } from '../errors.js'
import { hashFiles, readRange } from '../files.js'
import { addon, type NativeTensor, run } from '../native/addon.js'
import type { AuxiliaryFile, Checkpoint, TokenizerFiles } from './checkpoint.js'
import { type GgufHeader, type GgufTensor, readGgufHeader } from './gguf.js'
import { type LlamaTensor, ROPE_FACTORS, readLlama } from './gguf_llama.js'
import { rebuildTokenizer } from './gguf_tokenizer.js'
import { MappedTensors, requireInfo } from './mapped_tensors.js'
import { FLOAT_DTYPES, requireDtype, requireShape, type TensorInfo } from './tensor_info.js'

const isFloat = (type: string) => (FLOAT_DTYPES as readonly string[]).includes(type)

/** Blocks are decoded to F16: rounding is a sixteenth of a step with codes of 8 bits, and less with fewer. */
function tensorInfo(file: string, name: string, source: GgufTensor): TensorInfo {
  const { type, shape, byteOffset, byteLength } = source
  return { name, dtype: isFloat(type) ? type : 'F16', storedDtype: type, shape, file, byteOffset, byteLength }
}

export class GgufCheckpoint implements Checkpoint {
  readonly format = 'gguf'
  readonly generationConfig = {}
  private hash: Promise<string> | undefined
  private tokenizerFiles: TokenizerFiles | null | undefined

  private constructor(
    readonly path: string,
    private readonly header: GgufHeader,
    private readonly mapped: MappedTensors,
    readonly config: Readonly<Record<string, unknown>>,
    private readonly sources: ReadonlyMap<string, LlamaTensor>,
    readonly tensors: ReadonlyMap<string, TensorInfo>,
    private readonly threads: number,
  ) {}

  static open(file: string, threads: number): GgufCheckpoint {
    const header = readGgufHeader(file)
    const mapped = new MappedTensors()
    try {
      const factors = header.tensors.get(ROPE_FACTORS)
      const model = readLlama(file, header, factors ? readFloats(mapped, file, factors) : null)
      const tensors = new Map(
        [...model.tensors].map(([name, { source }]) => [name, tensorInfo(file, name, source)]),
      )
      return new GgufCheckpoint(file, header, mapped, model.config, model.tensors, tensors, threads)
    } catch (error) {
      mapped.dispose()
      throw error
    }
  }

  get tokenizer(): TokenizerFiles | null {
    if (this.tokenizerFiles === undefined)
      this.tokenizerFiles = rebuildTokenizer(this.path, this.header.metadata)
    return this.tokenizerFiles
  }

  async tensor(name: string): Promise<NativeTensor> {
    const info = requireInfo(this.tensors, name, this.path)
    let tensor = this.mapped.view(info)
    const replaceBy = (next: NativeTensor) => {
      tensor.dispose()
      tensor = next
    }
    try {
      const { rotaryHeads } = this.sources.get(name)!
      // Rows move whole, so this can come before decoding, on the fewer bytes.
      if (rotaryHeads !== undefined)
        replaceBy(await run(addon().unpermuteRotaryRows(tensor, rotaryHeads, this.threads)))
      if (!isFloat(info.storedDtype)) replaceBy(await run(addon().convertTensor(tensor, 'F16', this.threads)))
      return tensor
    } catch (error) {
      tensor.dispose()
      throw SlimError.from(error, { file: this.path, tensor: name })
    }
  }

  async requireTensor(
    name: string,
    shape: readonly number[],
    dtypes: readonly string[] = FLOAT_DTYPES,
  ): Promise<NativeTensor> {
    const info = requireInfo(this.tensors, name, this.path)
    requireShape(info, shape)
    requireDtype(info, dtypes)
    return this.tensor(name)
  }

  async *tensorBytes(name: string): AsyncGenerator<Uint8Array> {
    const info = requireInfo(this.tensors, name, this.path)
    if (isFloat(info.storedDtype) && this.sources.get(name)!.rotaryHeads === undefined) {
      yield* readRange(info.file, info.byteOffset, info.byteLength)
      return
    }
    const tensor = await this.tensor(name)
    try {
      yield tensor.toBytes()
    } finally {
      tensor.dispose()
    }
  }

  sourceHash(signal?: AbortSignal): Promise<string> {
    // The configuration is part of the file. An aborted or failed hash is not kept.
    this.hash ??= hashFiles([this.path], signal).then(
      (hash) => hash.digest('hex'),
      (error) => {
        this.hash = undefined
        throw error
      },
    )
    return this.hash
  }

  async auxiliary(): Promise<AuxiliaryFile[]> {
    const { tokenizer } = this
    if (!tokenizer) return []
    return [
      { name: 'tokenizer.json', bytes: Buffer.from(JSON.stringify(tokenizer.json)) },
      { name: 'tokenizer_config.json', bytes: Buffer.from(`${JSON.stringify(tokenizer.config, null, 2)}\n`) },
    ]
  }

  dispose(): void {
    this.mapped.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

function readFloats(mapped: MappedTensors, file: string, source: GgufTensor): Float32Array {
  const tensor = mapped.view(tensorInfo(file, source.name, source))
  try {
    return tensor.toFloat32Array()
  } finally {
    tensor.dispose()
  }
}
