/** Where the steps of a quantization run: what blocks, Hessians and packed layers are made with. */
import type { BlockSpec } from '../architecture/spec.js'
import {
  addon,
  type BlockWeights,
  type CalibrationBlock,
  type NativeAddon,
  type NativeCudaStates,
  type NativeHessian,
  type NativeTensor,
  run,
} from '../native/addon.js'
import { Handles } from '../native/handles.js'

/** Rows of all calibration windows, F32 [tokens, width], where the blocks of a backend read them. */
export type CalibrationRows = NativeTensor | NativeCudaStates

export interface Backend extends Pick<NativeAddon, 'quantizeLinear' | 'fitGroups'> {
  /** The kernels, which decide the last bits of the results; a run is continued with the same. */
  readonly kernels: string
  /** The most memory that the GPU has given at once; null on the CPU. */
  peakDeviceBytes(): number | null
  block(spec: BlockSpec, weights: BlockWeights): Promise<CalibrationBlock<CalibrationRows>>
  hessian(size: number, keepEvery: number): NativeHessian
  /** Takes over a tensor; `spillFolder` is for what does not fit in memory. */
  rows(tensor: NativeTensor, spillFolder: string | null): CalibrationRows
  zeroRows(tokens: number, width: number, spillFolder: string | null): CalibrationRows
  dispose(): void
}

export function cpuBackend(): Backend {
  const native = addon()
  return {
    kernels: native.instructionSet(),
    quantizeLinear: native.quantizeLinear,
    fitGroups: native.fitGroups,
    peakDeviceBytes: () => null,
    block: async (spec, weights) => new native.DecoderBlock(spec, weights),
    hessian: (size, keepEvery) => new native.Hessian(size, keepEvery),
    rows: (tensor) => tensor,
    zeroRows: (tokens, width, spillFolder) => native.allocateTensor('F32', [tokens, width], spillFolder),
    dispose() {},
  }
}

/** The first GPU: one block there at a time, and the rows while they fit. */
export function cudaBackend(threads: number): Backend {
  const native = addon()
  const device = new native.CudaDevice(0)
  return {
    kernels: `cuda ${device.image}, ${device.name}`,
    quantizeLinear: (...step) => device.quantizeLinear(...step),
    fitGroups: (...step) => device.fitGroups(...step),
    peakDeviceBytes: () => device.peakBytes,
    async block(spec, weights) {
      using handles = new Handles()
      const block = handles.own(new native.DecoderBlock(spec, weights))
      return run(device.calibrationBlock(block, threads))
    },
    hessian: (size, keepEvery) => device.hessian(size, keepEvery),
    rows(tensor, spillDirectory) {
      using handles = new Handles()
      return device.states(handles.own(tensor), { spillDirectory })
    },
    zeroRows: (tokens, width, spillDirectory) => device.states({ tokens, width }, { spillDirectory }),
    dispose: () => device.dispose(),
  }
}
