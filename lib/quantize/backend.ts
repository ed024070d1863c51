/** Where the steps of a quantization run: what blocks, Hessians and packed layers are made with. */
import type { BlockSpec } from '../architecture/spec.js'
import {
  addon,
  type BlockWeights,
  type CalibrationBlock,
  type NativeAddon,
  type NativeHessian,
  type NativeTensor,
} from '../native/addon.js'

/** Rows of all calibration windows [tokens, width], where the blocks of a backend read them. */
export type CalibrationRows = NativeTensor

export interface Backend extends Pick<NativeAddon, 'quantizeLinear' | 'fitGroups'> {
  /** What else decides the last bits of the results; a run is continued with the same. */
  readonly kernels: string
  block(spec: BlockSpec, weights: BlockWeights): Promise<CalibrationBlock<CalibrationRows>>
  hessian(size: number, keepEvery: number): NativeHessian
  /** Takes over the tensor, F32 [tokens, width]. */
  rows(tensor: NativeTensor): CalibrationRows
  dispose(): void
}

export function cpuBackend(): Backend {
  const native = addon()
  return {
    kernels: native.instructionSet(),
    quantizeLinear: native.quantizeLinear,
    fitGroups: native.fitGroups,
    block: async (spec, weights) => new native.DecoderBlock(spec, weights),
    hessian: (size, keepEvery) => new native.Hessian(size, keepEvery),
    rows: (tensor) => tensor,
    dispose() {},
  }
}
