/** The addon's declarations of CUDA: the driver, a device, and what lies on it. */
import type { SlimError } from '../errors.js'
import type {
  CalibrationBlock,
  GemmCase,
  HeadGradient,
  HeadOptions,
  ModelParts,
  NativeAddon,
  NativeDecoderBlock,
  NativeDecoderModel,
  NativeHessian,
  NativeJob,
  NativePackedMatrix,
  NativeSampler,
  NativeTensor,
  Quantizer,
  SampledToken,
} from './addon.js'

export interface CudaDeviceFacts {
  index: number
  name: string
  /** For example '9.0'. */
  computeCapability: string
  memoryBytes: number
  multiprocessors: number
}

/** What the driver API says, without a device being opened. */
export interface CudaDriverFacts {
  /** The library that was opened, or null. */
  driver: string | null
  /** The CUDA version that the driver supports. */
  version: string | null
  driverError: SlimError | null
  devices: CudaDeviceFacts[]
  /** Where kernels.fatbin is, or was looked for. */
  kernels: string
  kernelsError: SlimError | null
}

/** A GPU with the kernels loaded. Its work runs in order, whoever asks for it. */
export interface NativeCudaDevice {
  readonly name: string
  /** The image of kernels.fatbin that runs: 'sm_90a', say, or 'PTX' where the driver compiled that. */
  readonly image: string
  /** Bytes of device memory in use. */
  readonly usedBytes: number
  /** The most device memory that the driver had given at once. */
  readonly peakBytes: number
  /** The matrix in the kernels' order, on the device. */
  packedMatrix(matrix: NativePackedMatrix, threads: number): NativeJob<NativeCudaPackedMatrix>
  /** As NativeAddon.Hessian, on the device. */
  hessian(size: number, keepEvery: number): NativeCudaHessian
  /** As NativeAddon.inverseFactor. */
  inverseFactor(
    hessian: NativeTensor,
    damping: 'salience' | 'gptq',
  ): NativeJob<{ upper: NativeTensor; damping: number; dead: Uint8Array }>
  /** ‖(W − Q) X‖ / ‖W X‖ of weights [rows, cols] through H [cols, cols]. */
  relativeOutputError(weight: NativeTensor, quantized: NativeTensor, hessian: NativeTensor): NativeJob<number>
  /** Internal to tests and benchmarks: the float32 product of host tensors with all its options, into c. */
  multiply(
    c: NativeTensor,
    options: Omit<GemmCase, 'reference' | 'repeats' | 'batch'> & {
      /** Of this many products, whose operands and results lie one below the other. */
      batch?: number
    },
  ): NativeJob<void>
  /**
   * The values of a tensor [tokens, width] float32, a copy of other states, or zeros, for calibration: on the device if
   * that leaves half of its memory free, else on the host. A tensor is shared there, so nobody else writes to it any
   * more; others lie in a file of the spill directory if one is given.
   */
  states(
    source: NativeTensor | NativeCudaStates | { tokens: number; width: number },
    options?: {
      spillDirectory?: string | null
      /** Internal to tests: on the host, however little it is. */
      onHost?: boolean
    },
  ): NativeJob<NativeCudaStates>
  /** As addon().headGradient. Labels are drawn by the same numbers. */
  headGradient(
    states: NativeCudaStates,
    options: HeadOptions,
    threads: number,
  ): NativeJob<HeadGradient<NativeCudaStates>>
  /** The block for calibration. Its layers are copied to the device when a pass first runs them. */
  calibrationBlock(block: NativeDecoderBlock, threads: number): NativeJob<NativeCudaCalibrationBlock>
  /** As addon().quantizeLinear, with a Hessian of this device. */
  quantizeLinear: NativeAddon['quantizeLinear']
  /** As addon().groupErrors, with a Hessian of this device and groups of up to 256 columns. */
  groupErrors: NativeAddon['groupErrors']
  /** Internal to tests: as addon().allocateBits. */
  allocateBits: NativeAddon['allocateBits']
  /** As addon().fitGroups, for groups of up to 256 columns. */
  fitGroups: NativeAddon['fitGroups']
  /**
   * Internal to tests: addon().gptq with the factor U (F32 [cols, cols]) given; `costs` (F32 [1, cols]) are the Hessian's
   * diagonal, which the wide search weighs errors by (default: all alike).
   */
  gptq(
    weight: NativeTensor,
    upper: NativeTensor,
    groupBits: Uint8Array,
    options: { groupSize: number; quantizer: Quantizer; costs?: NativeTensor },
    threads: number,
  ): NativeJob<NativePackedMatrix>
  /** Internal to tests: draws the next token of every row of logits (F32 [rows, vocab]), as NativeSampler.sample. */
  sample(logits: NativeTensor, samplers: readonly NativeSampler[]): NativeJob<SampledToken[]>
  /** The device's memory is given back when what lies on it is disposed, too. */
  dispose(): void
}

export interface NativeCudaPackedMatrix {
  readonly rows: number
  readonly cols: number
  /** Of device memory. */
  readonly byteLength: number
  /** y [tokens, rows] float32 = x [tokens, cols] · Wᵀ (+ bias [rows]) (+ addTo [tokens, rows]). */
  matmul(
    x: NativeTensor,
    options?: {
      bias?: NativeTensor
      addTo?: NativeTensor
      /** Internal to tests and benchmarks: parts of K that CTAs share (default: as many as fill the device). */
      splits?: number
    },
  ): NativeJob<NativeTensor>
  dispose(): void
}

export interface NativeCudaHessian extends NativeHessian {
  /** Internal to tests: Σ (X̃ − X)ᵀX [size, size] and Σ (S̃ − S)ᵀX [state size, size], null where none came. */
  drift(): { inputs: NativeTensor | null; states: NativeTensor | null }
}

/** Values of calibration windows, float32 [tokens, width]. */
export interface NativeCudaStates {
  readonly tokens: number
  readonly width: number
  readonly onDevice: boolean
  /** A copy. */
  read(): NativeTensor
  dispose(): void
}

/** A decoder block over calibration windows on a device, whose Hessians are the device's. */
export type NativeCudaCalibrationBlock = CalibrationBlock<NativeCudaStates>

/**
 * Internal to benchmarks: one piece of work, recorded as a graph and timed again and again by the driver's events.
 * Weights that take turns are read from memory, not from the L2 cache. Activations are F16.
 */
export interface NativeCudaTimedWork {
  /** Device-to-device copies of so many bytes. */
  recordCopies(bytes: number, repeats: number): NativeJob<void>
  /** Products with each of the matrices in turn, which are of one shape; the preparation of x included. */
  recordPacked(matrices: readonly NativeCudaPackedMatrix[], x: NativeTensor, repeats: number): NativeJob<void>
  /**
   * cuBLAS's F16 products, accumulated in float32, with each of `copies` copies of weight in turn; `library` in place of
   * libcublas.so. Gives the library and its version; SLIM_DEVICE_UNAVAILABLE where it is not there.
   */
  recordCublas(
    weight: NativeTensor,
    copies: number,
    x: NativeTensor,
    repeats: number,
    library?: string,
  ): NativeJob<string>
  /** Seconds of one of the repeats, the mean of a launch. The emulated driver has no time: 0. */
  turn(): NativeJob<number>
  /** Of the last product: float32 of packed matrices, F16 of cuBLAS [tokens, rows]. */
  output(): NativeJob<NativeTensor>
  dispose(): void
}

/** A model on a device, made block by block: what a block was made of can be disposed once it is added. */
export interface NativeCudaModelBuilder {
  addBlock(block: NativeDecoderBlock, threads: number): NativeJob<void>
  /** Ends the building. The model's caches are F16. */
  finish(parts: Omit<ModelParts, 'blocks' | 'activations'>, threads: number): NativeJob<NativeDecoderModel>
  dispose(): void
}
