/** Where the steps of a quantization run: what blocks, Hessians and packed layers are made with. */
import type { BlockSpec } from '../architecture/spec.js'
import {
  addon,
  type BlockWeights,
  type CalibrationBlock,
  type HeadGradient,
  type HeadOptions,
  type NativeAddon,
  type NativeCudaStates,
  type NativeHessian,
  type NativeJob,
  type NativeTensor,
  run,
} from '../native/addon.js'
import { Handles } from '../native/handles.js'

/** Rows of all calibration windows, F32 [tokens, width], where the blocks of a backend read them. */
export type CalibrationRows = NativeTensor | NativeCudaStates

export interface Backend extends Pick<NativeAddon, 'quantizeLinear' | 'fitGroups' | 'groupErrors'> {
  /** The kernels, which decide the last bits of the results; a run is continued with the same. */
  readonly kernels: string
  /** The most memory that the GPU has given at once; null on the CPU. */
  peakDeviceBytes(): number | null
  block(spec: BlockSpec, weights: BlockWeights): Promise<CalibrationBlock<CalibrationRows>>
  hessian(size: number, keepEvery: number): NativeHessian
  headGradient(
    states: CalibrationRows,
    options: HeadOptions,
    threads: number,
  ): NativeJob<HeadGradient<CalibrationRows>>
  /** Takes over a tensor; `spillFolder`, here and below, is for what does not fit in memory. */
  rows(tensor: NativeTensor, spillFolder: string | null): Promise<CalibrationRows>
  copyRows(rows: CalibrationRows, spillFolder: string | null): Promise<CalibrationRows>
  zeroRows(tokens: number, width: number, spillFolder: string | null): Promise<CalibrationRows>
  dispose(): void
}

export function cpuBackend(threads: number): Backend {
  const native = addon()
  return {
    kernels: native.instructionSet(),
    quantizeLinear: native.quantizeLinear,
    fitGroups: native.fitGroups,
    groupErrors: native.groupErrors,
    headGradient: native.headGradient,
    peakDeviceBytes: () => null,
    block: async (spec, weights) => new native.DecoderBlock(spec, weights),
    hessian: (size, keepEvery) => new native.Hessian(size, keepEvery),
    rows: async (tensor) => tensor,
    copyRows: (rows, spillFolder) =>
      run(native.convertTensor(rows as NativeTensor, 'F32', threads, spillFolder)),
    zeroRows: async (tokens, width, spillFolder) =>
      native.allocateTensor('F32', [tokens, width], spillFolder),
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
    groupErrors: (...step) => device.groupErrors(...step),
    headGradient: (states, ...step) => device.headGradient(states as NativeCudaStates, ...step),
    peakDeviceBytes: () => device.peakBytes,
    async block(spec, weights) {
      using handles = new Handles()
      const block = handles.own(new native.DecoderBlock(spec, weights))
      return await run(device.calibrationBlock(block, threads))
    },
    hessian: (size, keepEvery) => device.hessian(size, keepEvery),
    async rows(tensor, spillDirectory) {
      using handles = new Handles()
      return await run(device.states(handles.own(tensor), { spillDirectory }))
    },
    copyRows: (rows, spillDirectory) => run(device.states(rows, { spillDirectory })),
    zeroRows: (tokens, width, spillDirectory) => run(device.states({ tokens, width }, { spillDirectory })),
    dispose: () => device.dispose(),
  }
}
