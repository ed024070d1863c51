/** Loads a block's or a model's weights from a checkpoint, quantized or not, as the native code takes them. */
import path from 'node:path'
import { decoderSpec } from '../architecture/index.js'
import type { DecoderBlockSpec, DecoderSpec, LinearSpec } from '../architecture/spec.js'
import type { Checkpoint } from '../checkpoint/checkpoint.js'
import { SlimError } from '../errors.js'
import {
  addon,
  type BlockWeights,
  type EmbeddingParts,
  type NativePackedMatrix,
  type NativeTensor,
} from '../native/addon.js'
import { Handles } from '../native/handles.js'
import { FORMAT_VERSION } from '../packed/manifest.js'

/** What the model of a checkpoint is; errors name its configuration. */
export function checkpointSpec(checkpoint: Checkpoint): DecoderSpec {
  try {
    return decoderSpec(checkpoint.config)
  } catch (error) {
    if (!(error instanceof SlimError)) throw error
    const file = checkpoint.format === 'gguf' ? checkpoint.path : path.join(checkpoint.path, 'config.json')
    throw new SlimError(error.code, `${file}: ${error.message}`, {
      ...error,
      remedy: undefined,
      file,
      cause: error,
    })
  }
}

/** The four tensors of a packed matrix, by the suffix of their names. */
export const PACKED_PARTS = {
  qweight: 'qweight',
  groupBits: 'group_bits',
  scales: 'scales',
  qzeros: 'qzeros',
} as const

/** A module's weight [rows, cols]: dense, or packed when the checkpoint has it so. */
export async function loadMatrix(
  checkpoint: Checkpoint,
  { name, rows, cols }: Pick<LinearSpec, 'name' | 'rows' | 'cols'>,
): Promise<NativeTensor | NativePackedMatrix> {
  quantizationConfig(checkpoint)
  if (!checkpoint.tensors.has(`${name}.${PACKED_PARTS.qweight}`))
    return checkpoint.requireTensor(`${name}.weight`, [rows, cols])
  // The packed matrix shares the memory of its parts.
  using parts = new Handles()
  const part = async (suffix: string) => parts.own(await checkpoint.tensor(`${name}.${suffix}`))
  const groupBits = await part(PACKED_PARTS.groupBits)
  try {
    return new (addon().PackedMatrix)({
      rows,
      cols,
      groupSize: packedGroupSize(checkpoint, name),
      qweight: await part(PACKED_PARTS.qweight),
      groupBits,
      scales: await part(PACKED_PARTS.scales),
      qzeros: await part(PACKED_PARTS.qzeros),
    })
  } catch (error) {
    throw SlimError.from(error, { file: checkpoint.path, tensor: `${name}.${PACKED_PARTS.qweight}` })
  }
}

/** What turns token ids into the states before the first block; `handles` own it. */
export async function loadEmbedding(
  checkpoint: Checkpoint,
  { embedding, positions, vocabSize: rows, hiddenSize: cols }: DecoderSpec,
  handles: Handles,
): Promise<EmbeddingParts> {
  return {
    embedding: handles.own(await loadMatrix(checkpoint, { name: embedding.name, rows, cols })),
    embeddingScale: embedding.scale,
    positions: positions
      ? { weight: handles.own(await checkpoint.tensor(`${positions.name}.weight`)), offset: positions.offset }
      : undefined,
  }
}

export async function loadBlockWeights(
  checkpoint: Checkpoint,
  block: DecoderBlockSpec,
): Promise<BlockWeights> {
  const weights: BlockWeights = { linears: {}, norms: {} }
  for (const linear of block.linears)
    weights.linears[linear.role] = {
      weight: await loadMatrix(checkpoint, linear),
      bias: linear.bias ? await checkpoint.requireTensor(`${linear.name}.bias`, [linear.rows]) : undefined,
    }
  const { hiddenSize, headDim } = block.spec
  for (const norm of block.norms)
    weights.norms[norm.role] = await loadNorm(
      checkpoint,
      norm,
      norm.role === 'q' || norm.role === 'k' ? headDim : hiddenSize,
    )
  return weights
}

/** Frees a block's weights; native blocks made of them keep what they use. */
export function disposeWeights({ linears, norms }: BlockWeights): void {
  for (const { weight, bias } of [...Object.values(linears), ...Object.values(norms)]) {
    weight.dispose()
    bias?.dispose()
  }
}

/** A norm's weight and bias, `size` elements each. */
export async function loadNorm(
  checkpoint: Checkpoint,
  norm: { name: string; bias: boolean },
  size: number,
): Promise<{ weight: NativeTensor; bias?: NativeTensor }> {
  return {
    weight: await checkpoint.requireTensor(`${norm.name}.weight`, [size]),
    bias: norm.bias ? await checkpoint.requireTensor(`${norm.name}.bias`, [size]) : undefined,
  }
}

/** quantization_config of a packed folder's config.json. */
export interface QuantizationConfig {
  quant_method: 'slim'
  format_version: number
  bits: number
  group_size: number
  /** Modules whose group size differs. */
  module_group_sizes: Record<string, number>
}

/** Refuses a checkpoint that is quantized in a way, or by a format version, that this version does not read. */
function quantizationConfig(checkpoint: Checkpoint): QuantizationConfig | null {
  const config = checkpoint.config.quantization_config as QuantizationConfig | null | undefined
  if (config === undefined || config === null) return null
  if (config.quant_method === 'slim' && config.format_version === FORMAT_VERSION) return config
  throw new SlimError(
    'SLIM_UNSUPPORTED_FORMAT',
    `${checkpoint.path} is quantized by ${JSON.stringify(config.quant_method)}, format version ${config.format_version}`,
    {
      file: checkpoint.path,
      parameter: 'quantization_config',
      expected: `quant_method "slim", format_version ${FORMAT_VERSION}`,
      remedy: 'Use the original checkpoint, or a version of slimllm that reads this one',
    },
  )
}

function packedGroupSize(checkpoint: Checkpoint, module: string): number {
  const config = quantizationConfig(checkpoint)
  const groupSize = config?.module_group_sizes?.[module] ?? config?.group_size
  if (Number.isInteger(groupSize) && groupSize! > 0) return groupSize!
  throw new SlimError('SLIM_BAD_CONFIG', `config.json does not say the group size of ${module}`, {
    file: checkpoint.path,
    parameter: 'quantization_config.group_size',
    expected: 'a whole number from 1 up',
    received: String(groupSize),
  })
}
