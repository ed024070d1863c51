/** Pictures of what a packed folder's manifest says of every linear layer: bits, and error. */
import type { LayerReport, Manifest } from '../packed/manifest.js'
import { heatMapSvg } from './heat_map.js'

/** Mean bits of the layer's codes, a short last group counting less. */
function meanBits({ groupBits, groupSize, cols }: LayerReport): number {
  const width = (g: number) => Math.min(groupSize, cols - g * groupSize)
  return groupBits.reduce((sum, bits, g) => sum + bits * width(g), 0) / cols
}

/** Where the bits went: mean code bits, layer by block. */
export function allocationSvg(manifest: Pick<Manifest, 'layers' | 'storedBitsPerWeight'>): string {
  const stored = manifest.storedBitsPerWeight.toFixed(2)
  return heatMapSvg(
    manifest.layers.map((layer) => ({ name: layer.name, value: meanBits(layer) })),
    {
      title: `Mean code bits of every layer (${stored} stored bits a weight in all)`,
      description: 'A field of cells: linear layers from top to bottom, decoder blocks from left to right.',
      format: (value) => value.toFixed(1),
    },
  )
}

/** Where the error is: ‖(W−Q)X‖ / ‖WX‖ on the calibration inputs, layer by block. */
export function errorSvg(manifest: Pick<Manifest, 'layers'>): string {
  return heatMapSvg(
    manifest.layers.map(({ name, relativeError }) => ({ name, value: relativeError })),
    {
      title: 'Relative output error of every layer',
      description: 'A field of cells: linear layers from top to bottom, decoder blocks from left to right.',
      format: (value) => value.toFixed(2),
    },
  )
}
