/** The tensors of a packed folder, as entries for the safetensors writer, and the reports of its layers. */
import type { DecoderBlockSpec } from '../architecture/spec.js'
import type { SafetensorsEntry } from '../checkpoint/safetensors_writer.js'
import type { BlockWeights, NativePackedMatrix, NativeTensor } from '../native/addon.js'
import { PACKED_PARTS } from '../runtime/weights.js'
import type { LayerReport } from './manifest.js'

/** A tensor kept as it is in the source. */
export function denseEntry(name: string, tensor: NativeTensor): SafetensorsEntry {
  return { name, dtype: tensor.dtype, shape: tensor.shape, bytes: () => tensor.toBytes() }
}

/** The four parts of a packed matrix. */
export function packedEntries(module: string, packed: NativePackedMatrix): SafetensorsEntry[] {
  return Object.entries(PACKED_PARTS).map(([part, suffix]) =>
    denseEntry(`${module}.${suffix}`, packed[part as keyof typeof PACKED_PARTS]()),
  )
}

/** The tensors of a block that are not packed: kept layers, biases and norms. */
export function denseTensors(
  block: DecoderBlockSpec,
  { linears, norms }: BlockWeights,
): { name: string; tensor: NativeTensor }[] {
  const modules = [
    ...block.linears.map(({ role, name }) => ({ name, ...linears[role]! })),
    ...block.norms.map(({ role, name }) => ({ name, ...norms[role]! })),
  ]
  return modules.flatMap(({ name, weight, bias }) => [
    ...('qweight' in weight ? [] : [{ name: `${name}.weight`, tensor: weight }]),
    ...(bias ? [{ name: `${name}.bias`, tensor: bias }] : []),
  ])
}

/** All tensors of a block: the packed layers, then the rest. */
export function blockEntries(block: DecoderBlockSpec, weights: BlockWeights): SafetensorsEntry[] {
  const packed = block.linears.flatMap(({ role, name }) => {
    const { weight } = weights.linears[role]!
    return 'qweight' in weight ? packedEntries(name, weight) : []
  })
  return [...packed, ...denseTensors(block, weights).map(({ name, tensor }) => denseEntry(name, tensor))]
}

type Measured = Pick<LayerReport, 'relativeError' | 'damping' | 'salienceDamping'>

/** Of a layer that was quantized without calibration. */
export const NOTHING_MEASURED: Measured = { relativeError: null, damping: null, salienceDamping: null }

export function layerReport(
  name: string,
  { rows, cols, groupSize, storedBytes }: NativePackedMatrix,
  { groupBits, relativeError, damping, salienceDamping }: { groupBits: Uint8Array } & Measured,
): LayerReport {
  return {
    ...{ name, rows, cols, groupSize, groupBits: [...groupBits], storedBytes },
    ...{ relativeError, damping, salienceDamping },
  }
}

/** Mean bits of the codes alone, over all weights of the layers. */
export function meanCodeBits(layers: readonly LayerReport[]): number {
  let weights = 0
  let bits = 0
  for (const { rows, cols, groupSize, groupBits } of layers) {
    weights += rows * cols
    groupBits.forEach((width, g) => {
      bits += rows * Math.min(groupSize, cols - g * groupSize) * width
    })
  }
  return weights === 0 ? 0 : bits / weights
}

/** Stored bits per weight of layers together: codes, group bits, scales, zero points and means. */
export function storedBitsPerWeight(layers: readonly LayerReport[]): number {
  const sum = (of: (layer: LayerReport) => number) => layers.reduce((total, layer) => total + of(layer), 0)
  const weights = sum((layer) => layer.rows * layer.cols)
  return weights === 0 ? 0 : (8 * sum((layer) => layer.storedBytes)) / weights
}
