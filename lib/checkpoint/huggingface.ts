/** A Hugging Face folder: config.json, model.safetensors or its shards, tokenizer files. */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { SlimError } from '../errors.js'
import { hashFiles, isObject, kindOf, parseJsonObject, readFile, readJson, readRange } from '../files.js'
import type { NativeTensor } from '../native/addon.js'
import type { AuxiliaryFile, Checkpoint, TokenizerFiles } from './checkpoint.js'
import { MappedTensors, requireInfo } from './mapped_tensors.js'
import { readSafetensorsHeader } from './safetensors.js'
import { FLOAT_DTYPES, NATIVE_DTYPES, requireDtype, requireShape, type TensorInfo } from './tensor_info.js'

export const SINGLE_FILE = 'model.safetensors'
export const INDEX_FILE = 'model.safetensors.index.json'

/** "model-00002-of-00031.safetensors" is shard 1 (from 0) of 31. */
export function shardName(index: number, shards: number): string {
  const number = (n: number) => String(n).padStart(5, '0')
  return `model-${number(index + 1)}-of-${number(shards)}.safetensors`
}

/** The number of shards that a shard's name tells. */
export function shardCount(name: string): number {
  return Number(/-of-(\d+)\.safetensors$/.exec(name)?.[1] ?? 1)
}

/** The content of INDEX_FILE. */
export function shardIndex(
  shards: readonly { shard: string; tensors: readonly string[]; tensorBytes: number }[],
) {
  return {
    metadata: { total_size: shards.reduce((sum, { tensorBytes }) => sum + tensorBytes, 0) },
    weight_map: Object.fromEntries(
      shards.flatMap(({ shard, tensors }) => tensors.map((name) => [name, shard])),
    ),
  }
}

const AUXILIARY_FILES = [
  'tokenizer.json',
  'tokenizer_config.json',
  'tokenizer.model',
  'special_tokens_map.json',
  'added_tokens.json',
  'vocab.json',
  'merges.txt',
  'chat_template.jinja',
  'chat_template.json',
  'generation_config.json',
]

export class HuggingFaceCheckpoint implements Checkpoint {
  readonly format = 'huggingface'
  private readonly mapped = new MappedTensors()
  private hash: Promise<string> | undefined
  private tokenizerFiles: TokenizerFiles | null | undefined

  private constructor(
    readonly path: string,
    readonly config: Readonly<Record<string, unknown>>,
    readonly generationConfig: Readonly<Record<string, unknown>>,
    readonly tensors: ReadonlyMap<string, TensorInfo>,
  ) {}

  static async open(folder: string): Promise<HuggingFaceCheckpoint> {
    const configFile = path.join(folder, 'config.json')
    if ((await kindOf(configFile)) !== 'file')
      throw new SlimError(
        'SLIM_FILE_NOT_FOUND',
        `${folder} is not a Hugging Face folder: there is no config.json`,
        {
          file: configFile,
          remedy: 'Give the folder that holds config.json, or a .gguf file',
        },
      )
    const generationFile = path.join(folder, 'generation_config.json')
    return new HuggingFaceCheckpoint(
      folder,
      await readJson(configFile),
      (await kindOf(generationFile)) === 'file' ? await readJson(generationFile) : {},
      await readTensors(folder),
    )
  }

  get tokenizer(): TokenizerFiles | null {
    if (this.tokenizerFiles === undefined) {
      const json = readOptionalJson(path.join(this.path, 'tokenizer.json'))
      const config = readOptionalJson(path.join(this.path, 'tokenizer_config.json')) ?? {}
      const chatTemplate =
        readOptionalText(path.join(this.path, 'chat_template.jinja')) ??
        (readOptionalJson(path.join(this.path, 'chat_template.json'))?.chat_template as string | undefined)
      this.tokenizerFiles = json && { json, config, chatTemplate }
    }
    return this.tokenizerFiles
  }

  async tensor(name: string): Promise<NativeTensor> {
    const info = requireInfo(this.tensors, name, this.path)
    requireDtype(info, NATIVE_DTYPES)
    return this.mapped.view(info)
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

  tensorBytes(name: string): AsyncIterable<Uint8Array> {
    const info = requireInfo(this.tensors, name, this.path)
    return readRange(info.file, info.byteOffset, info.byteLength)
  }

  sourceHash(signal?: AbortSignal): Promise<string> {
    // An aborted or failed hash is not kept.
    this.hash ??= this.computeHash(signal).catch((error) => {
      this.hash = undefined
      throw error
    })
    return this.hash
  }

  private async computeHash(signal?: AbortSignal): Promise<string> {
    const shards = [...new Set([...this.tensors.values()].map((info) => info.file))].sort()
    return (await hashFiles([path.join(this.path, 'config.json'), ...shards], signal)).digest('hex')
  }

  async auxiliary(): Promise<AuxiliaryFile[]> {
    const files: AuxiliaryFile[] = []
    for (const name of AUXILIARY_FILES) {
      const file = path.join(this.path, name)
      if ((await kindOf(file)) === 'file') files.push({ name, bytes: await readFile(file) })
    }
    return files
  }

  dispose(): void {
    this.mapped.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

function readOptionalText(file: string): string | null {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw SlimError.from(error, { file })
  }
}

function readOptionalJson(file: string): Record<string, unknown> | null {
  const text = readOptionalText(file)
  return text === null ? null : parseJsonObject(text, file, 'SLIM_BAD_CONFIG')
}

async function readTensors(folder: string): Promise<Map<string, TensorInfo>> {
  const single = path.join(folder, SINGLE_FILE)
  if ((await kindOf(single)) === 'file') return (await readSafetensorsHeader(single)).tensors
  const index = path.join(folder, INDEX_FILE)
  if ((await kindOf(index)) === 'file') return readShards(folder, index)
  for (const pickled of ['pytorch_model.bin', 'pytorch_model.bin.index.json'])
    if ((await kindOf(path.join(folder, pickled))) === 'file')
      throw new SlimError(
        'SLIM_UNSUPPORTED_FORMAT',
        `${folder} holds pickled weights (${pickled}) but no ${SINGLE_FILE}`,
        {
          file: path.join(folder, pickled),
          expected: `${SINGLE_FILE} or ${INDEX_FILE}`,
          remedy: 'Loading a pickle can run any code: convert the model to safetensors first',
        },
      )
  throw new SlimError('SLIM_FILE_NOT_FOUND', `${folder} has neither ${SINGLE_FILE} nor ${INDEX_FILE}`, {
    file: single,
    expected: `${SINGLE_FILE} or ${INDEX_FILE}`,
    remedy: 'Fetch the weights, too',
  })
}

async function readShards(folder: string, index: string): Promise<Map<string, TensorInfo>> {
  const { weight_map: weightMap } = await readJson(index, 'SLIM_BAD_HEADER')
  if (!isObject(weightMap))
    throw new SlimError('SLIM_BAD_HEADER', `${index} has no weight_map`, {
      file: index,
      parameter: 'weight_map',
    })
  const shards = new Map<string, Map<string, TensorInfo>>()
  const tensors = new Map<string, TensorInfo>()
  for (const [name, shard] of Object.entries(weightMap)) {
    // A file name alone: an index must not reach outside its folder.
    if (typeof shard !== 'string' || shard === '' || shard !== path.basename(shard) || shard.includes('\\'))
      throw new SlimError('SLIM_BAD_HEADER', `${index} maps ${name} to ${JSON.stringify(shard)}`, {
        file: index,
        tensor: name,
        expected: 'the name of a file in the same folder',
        received: JSON.stringify(shard),
      })
    const file = path.join(folder, shard)
    let held = shards.get(shard)
    if (!held) {
      if ((await kindOf(file)) !== 'file')
        throw new SlimError('SLIM_FILE_NOT_FOUND', `The shard ${file}, which holds ${name}, is missing`, {
          file,
          tensor: name,
          remedy: 'Fetch it again',
        })
      held = (await readSafetensorsHeader(file)).tensors
      shards.set(shard, held)
    }
    const info = held.get(name)
    if (!info)
      throw new SlimError('SLIM_TENSOR_MISSING', `${index} says that ${name} is in ${file}, but it is not`, {
        file,
        tensor: name,
        remedy: 'Index and shards do not belong together: fetch them again',
      })
    tensors.set(name, info)
  }
  return tensors
}
