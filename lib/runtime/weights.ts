/** Loads a block's or a model's weights from a checkpoint, quantized or not, as the native code takes them. */
import type { DecoderBlockSpec, LinearSpec } from '../architecture/spec.js'
import type { Checkpoint } from '../checkpoint/checkpoint.js'
import { SlimError } from '../errors.js'
import { addon, type BlockWeights, type NativePackedMatrix, type NativeTensor } from '../native/addon.js'

/** The four tensors of a packed matrix, by the suffix of their names. */
export const PACKED_PARTS = {
  qweight: 'qweight',
  groupBits: 'group_bits',
  scales: 'scales',
  qzeros: 'qzeros',
} as const

/** Whether a module's weight is packed in this checkpoint. */
export function isPacked(checkpoint: Checkpoint, module: string): boolean {
  return checkpoint.tensors.has(`${module}.${PACKED_PARTS.qweight}`)
}

/** A module's weight [rows, cols]: dense, or packed when the checkpoint has it so. */
export async function loadMatrix(
  checkpoint: Checkpoint,
  { name, rows, cols }: Pick<LinearSpec, 'name' | 'rows' | 'cols'>,
): Promise<NativeTensor | NativePackedMatrix> {
  if (!isPacked(checkpoint, name)) return checkpoint.requireTensor(`${name}.weight`, [rows, cols])
  const part = (suffix: string) => checkpoint.tensor(`${name}.${suffix}`)
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

function packedGroupSize(checkpoint: Checkpoint, module: string): number {
  const config = checkpoint.config.quantization_config as QuantizationConfig | undefined
  const groupSize = config?.module_group_sizes?.[module] ?? config?.group_size
  if (config?.quant_method !== 'slim' || !Number.isInteger(groupSize))
    throw new SlimError('SLIM_BAD_CONFIG', `config.json does not say the group size of ${module}`, {
      file: checkpoint.path,
      parameter: 'quantization_config.group_size',
      expected: 'quantization_config of quant_method "slim" with group_size',
      received: JSON.stringify(checkpoint.config.quantization_config),
    })
  return groupSize as number
}
