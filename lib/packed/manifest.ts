/** slimllm.json: how a packed folder was made, and what every layer stores. docs/format.md specifies it. */
import path from 'node:path'
import { SlimError } from '../errors.js'
import { kindOf, readJson } from '../files.js'
import type { Settings } from '../quantize/options.js'

export const FORMAT_VERSION = 1

export interface LayerReport {
  name: string
  rows: number
  cols: number
  groupSize: number
  /** Bits of every group. */
  groupBits: number[]
  storedBytes: number
  /** ‖(W−Q)X‖ / ‖WX‖ on the calibration inputs; null without calibration. */
  relativeError: number | null
  /** Share of the Hessian's mean diagonal that was added before factoring; null where no Hessian was used. */
  damping: number | null
  /** What was added to the diagonal for the salience's factor: 0.01 unless it had to grow; null without a Hessian. */
  salienceDamping: number | null
}

/** Wall-clock seconds: the only fields that differ between two runs of the same settings. */
export interface Timing {
  total: number
  /** By phase; sensitivity is the pass for the allocation by Fisher information. */
  sensitivity: number
  calibrate: number
  propagate: number
  factor: number
  allocation: number
  quantizer: number
  compensation: number
  refinement: number
  /** Per layer name. */
  layers: Record<string, number>
}

export interface Manifest {
  format: 'slimllm'
  formatVersion: number
  slimllmVersion: string
  /** Of the machine that made it: other kernels round differently. */
  instructionSet: string
  source: { modelType: string; sha256: string }
  settings: Settings & { givenBitMap: boolean }
  calibration: {
    samples: number
    seqLen: number
    seed: number | null
    offsets: number[]
    sha256: string
  } | null
  /** Over the quantized layers, everything counted. */
  storedBitsPerWeight: number
  /** Mean bits of the codes alone. */
  codeBitsPerWeight: number
  /** Sum of all safetensors files. */
  fileBytes: number
  layers: LayerReport[]
  seconds: Timing
}

/** The manifest of a packed folder; null for any other source. */
export async function readManifest(source: string): Promise<Manifest | null> {
  const file = path.join(source, 'slimllm.json')
  if ((await kindOf(file)) === null) return null
  const manifest = await readJson(file)
  if (manifest.format !== 'slimllm' || manifest.formatVersion !== FORMAT_VERSION)
    throw new SlimError('SLIM_BAD_CONFIG', `${file} is not a manifest of format version ${FORMAT_VERSION}`, {
      file,
      parameter: 'formatVersion',
      expected: `format "slimllm", formatVersion ${FORMAT_VERSION}`,
      received: `format ${JSON.stringify(manifest.format)}, formatVersion ${JSON.stringify(manifest.formatVersion)}`,
    })
  return manifest as unknown as Manifest
}
