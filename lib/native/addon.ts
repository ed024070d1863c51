/** The typed interface of the native addon. One call does a step worth at least a millisecond, off this thread. */
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import type { BlockSpec } from '../architecture/spec.js'
import { SlimError, type SlimErrorCode, type SlimErrorDetails } from '../errors.js'
import type {
  CudaDriverFacts,
  NativeCudaDevice,
  NativeCudaModelBuilder,
  NativeCudaTimedWork,
} from './cuda.js'

export type * from './cuda.js'

export type FloatDType = 'F32' | 'F16' | 'BF16'
/** GGUF's blocks of 32 to 256 elements along a row; `convertTensor` turns them into floats. */
export type BlockDType =
  | 'Q8_0'
  | 'Q4_0'
  | 'Q4_1'
  | 'Q5_0'
  | 'Q5_1'
  | 'IQ4_NL'
  | 'Q2_0'
  | 'Q2_K'
  | 'Q3_K'
  | 'Q4_K'
  | 'Q5_K'
  | 'Q6_K'
  | 'IQ4_XS'
  | 'TQ2_0'
export type DType = FloatDType | 'I32' | 'U8' | BlockDType

/** A running native step. */
export interface NativeJob<T> {
  readonly promise: Promise<T>
  /** The promise rejects with SLIM_ABORTED soon; nothing that the step would have made is visible. */
  cancel(): void
}

/** A dense row-major tensor in native memory: its own, or a view of a mapped file. */
export interface NativeTensor {
  readonly dtype: DType
  readonly shape: number[]
  readonly byteLength: number
  /** A copy as float32. */
  toFloat32Array(): Float32Array
  /** A copy of the raw bytes. */
  toBytes(): Uint8Array
  dispose(): void
}

/** A file mapped read-only. Its tensors keep the mapping alive. */
export interface NativeMappedFile {
  readonly byteLength: number
  /** Throws SLIM_FILE_TRUNCATED when the bytes are not all there. */
  tensor(dtype: DType, shape: readonly number[], byteOffset: number): NativeTensor
  dispose(): void
}

/** H = (2/N) Σ XᵀX over N calibration sequences, and every `keepEvery`-th row of X for the KL of SBA. */
export interface NativeHessian {
  readonly size: number
  readonly sequences: number
  /**
   * Adds x [tokens, size] float32, `sequences` sequences. `original` is internal to tests: the original model's inputs
   * [tokens, size], and the states [tokens, channels] of both models that the layer's outputs are added to.
   */
  add(
    x: NativeTensor,
    sequences: number,
    threads: number,
    original?: { x?: NativeTensor; states?: NativeTensor; quantizedStates?: NativeTensor },
  ): NativeJob<void>
  /** H as float32 [size, size]. */
  matrix(): NativeTensor
  /** The kept rows, float32 [kept, size]. */
  samples(): NativeTensor
  dispose(): void
}

/** The input of packed matrices: rounded to int8, one scale a group and token; or as it is. */
export type Activations = 'int8' | 'float32'

/** A quantized matrix in the canonical layout of docs/format.md. */
export interface NativePackedMatrix {
  readonly rows: number
  readonly cols: number
  readonly groupSize: number
  /** Bytes of all four parts. */
  readonly storedBytes: number
  qweight(): NativeTensor
  groupBits(): NativeTensor
  scales(): NativeTensor
  qzeros(): NativeTensor
  /** Float32 [rows, cols]. */
  dequantize(threads: number): NativeJob<NativeTensor>
  /**
   * y [tokens, rows] = x [tokens, cols] · Wᵀ, float32. With int8 activations (default: float32) the matrix is put into
   * the kernels' order at the first product, and kept so beside its own.
   */
  matmul(x: NativeTensor, threads: number, activations?: Activations): NativeJob<NativeTensor>
  dispose(): void
}

/** How the scales of groups are chosen: range, SQC, or the wide search weighted by the Hessian's diagonal. */
export type Quantizer = 'minmax' | 'sqc' | 'wide'

export interface QuantizeLinearOptions {
  bits: number
  groupSize: number
  /** All groups at `bits`; or SBA (METHODS: salience-determined bit allocation); or the bits of every group. */
  allocation: 'uniform' | 'sba' | Uint8Array
  quantizer: Quantizer
  compensation: 'none' | 'gptq'
  /** Most sweeps of the refinement after GPTQ (default 0: none). */
  sweeps?: number
  /**
   * How far W moves towards W + [W (X̃ − X)ᵀX + (S̃ − S)ᵀX] (XᵀX)⁻¹, which makes up for the drift of the inputs from X̃
   * to X and of the states from S̃ to S: shares of the two terms, 0 (default) to 1.
   */
  inputDriftWeight?: number
  stateDriftWeight?: number
}

export interface QuantizedLinear {
  packed: NativePackedMatrix
  groupBits: Uint8Array
  /** ‖(W−Q)X‖ / ‖WX‖ over the calibration inputs (Frobenius, through H). */
  relativeError: number
  /**
   * What was added to H's diagonal before GPTQ's factor could be made, as a share of the mean diagonal: 0.01 unless it
   * had to grow; 0 for compensation 'none'.
   */
  damping: number
  /** The same for the salience's factor, as it was added: 0.01 unless it had to grow; 0 where SBA did not ask. */
  salienceDamping: number
  /** KL of every SBA candidate, i = 1 …, or null. */
  kl: Float64Array | null
  /** Salience of every group, or null. */
  salience: Float64Array | null
  /** tr((W−Q)H(W−Q)ᵀ), up to a factor, before the refinement and after each of its sweeps. */
  objective: Float64Array
  seconds: {
    factor: number
    allocation: number
    quantizer: number
    compensation: number
    refinement: number
  }
}

export type LinearRole = 'q' | 'k' | 'v' | 'qkv' | 'o' | 'gate' | 'up' | 'gateUp' | 'down'
export type NormRole = 'input' | 'postAttention' | 'preMlp' | 'postMlp' | 'q' | 'k'
/** The four distinct inputs of a block's linear layers. */
export type TapName = 'qkv' | 'o' | 'gateUp' | 'down'

export interface BlockWeights {
  linears: Partial<Record<LinearRole, { weight: NativeTensor | NativePackedMatrix; bias?: NativeTensor }>>
  norms: Partial<Record<NormRole, { weight: NativeTensor; bias?: NativeTensor }>>
}

/**
 * A forward pass over all tokens that halts before each input of linear layers: F32 tensors of as many rows, the states
 * [tokens, hidden], the outputs of the attention's heads [tokens, query width], the MLP's inner values
 * [tokens, intermediate].
 */
export interface StagedPass<Rows = NativeTensor> {
  states: Rows
  attended: Rows
  inner: Rows
}

/** A decoder block that runs over rows of calibration windows. */
export interface CalibrationBlock<Rows> {
  /**
   * Runs the block on states [tokens, hidden] float32: whole sequences of `sequenceLength` tokens, one after the
   * other. With `taps`, the inputs of the linear layers are added to the Hessians, and states are left as they are
   * (the last product is not computed); without, states are replaced by the block's output.
   */
  forward(
    states: Rows,
    options: {
      sequenceLength: number
      taps?: Partial<Record<TapName, NativeHessian>>
      /** Internal to tests, of a device: how many tokens go through the block at once. */
      tileTokens?: number
    },
    threads: number,
  ): NativeJob<void>
  /**
   * One stage of a pass, with this block's weights: computes the inputs of the layers on a tap from what the stages
   * before have left, or ('end') turns the states into the block's output. The stages are run in the order qkv, o,
   * gateUp, down, end. The inputs are added to the Hessian; beside the original block on its own pass, also what they
   * differ by, Σ (X̃ − X)ᵀX, and for o and down what the states do, Σ (S̃ − S)ᵀX: the drift of quantizeLinear.
   */
  stage(
    name: TapName | 'end',
    options: {
      sequenceLength: number
      pass: StagedPass<Rows>
      hessian?: NativeHessian
      original?: { block: CalibrationBlock<Rows>; pass: StagedPass<Rows> }
      /** Internal to tests, of a device: how many tokens go through the block at once. */
      tileTokens?: number
    },
    threads: number,
  ): NativeJob<void>
  /**
   * The backward pass: `inputs` [tokens, hidden] float32 are the states that entered the block, `gradients` (the same
   * shape) come as ∂L/∂output and leave as ∂L/∂inputs. Values are recomputed, some whole sequences at a time, and with
   * `taps` the inputs of the linear layers are added to the Hessians on the way.
   */
  backward(
    inputs: Rows,
    gradients: Rows,
    options: {
      sequenceLength: number
      taps?: Partial<Record<TapName, NativeHessian>>
      fisher?: boolean
      /** On the CPU alone. */
      weightGradients?: boolean
      /** Internal to tests, of a device: how many tokens of whole windows, or queries of one, go at once. */
      tileTokens?: number
    },
    threads: number,
  ): NativeJob<BlockGradients>
  dispose(): void
}

/** One decoder block: spec and weights. The weights are shared, not copied. */
export type NativeDecoderBlock = CalibrationBlock<NativeTensor>

export interface BlockGradients {
  /** Σ over tokens (∂L/∂y_o)² of every output of every linear layer; empty unless `fisher`. */
  fisher: Partial<Record<LinearRole, Float64Array>>
  /** Of every token, the mean of (∂L/∂y_o)² over the outputs of the layers on a tap; empty unless `fisher`. */
  tokenPowers: Partial<Record<TapName, Float32Array>>
  /** ∂L/∂W, float32 [rows, cols]; empty unless `weightGradients`. */
  weightGradients: Partial<Record<LinearRole, NativeTensor>>
}

export interface HeadOptions {
  sequenceLength: number
  head: NativeTensor | NativePackedMatrix
  finalNorm?: { weight: NativeTensor; bias?: NativeTensor }
  /** What `finalNorm` is: that of the blocks. */
  norm: BlockSpec['norm']
  /** cap · tanh(logits / cap); 0: none. */
  logitSoftcap: number
  /** The token after each one [tokens] (of a sequence's last, anything); or labels are drawn from the model itself. */
  labels?: Int32Array
  /** Of the draw (default 0): the label of a token depends on it, on `firstToken` + its index, and on the model. */
  seed?: number
  firstToken?: number
}

export interface HeadGradient<Rows> {
  /** ∂L/∂states [tokens, hidden], L = −Σ ln p(label) over all tokens of the sequences but their last. */
  gradients: Rows
  /** L, and the number of its terms. */
  nll: number
  count: number
  /** The labels [tokens]; −1 where there is none. */
  labels: Int32Array
}

export interface EmbeddingParts {
  /** [vocab, hidden] */
  embedding: NativeTensor | NativePackedMatrix
  /** Learned positions (OPT) [positions + offset, hidden]. */
  positions?: { weight: NativeTensor; offset: number }
  /** Factor on the embeddings (Gemma: √hidden rounded to the weights' dtype; 1 otherwise). */
  embeddingScale: number
}

export interface ModelParts extends EmbeddingParts {
  blocks: NativeDecoderBlock[]
  finalNorm?: { weight: NativeTensor; bias?: NativeTensor }
  head: NativeTensor | NativePackedMatrix
  /** cap · tanh(logits / cap); 0: none. */
  logitSoftcap: number
  /**
   * What packed matrices take (default float32). For int8 they are put into the order of its kernels, beside the
   * packed form, at the first pass or by prepare().
   */
  activations?: Activations
}

/** I8: int8 with a float16 scale for every position and head. */
export type CacheDType = 'F16' | 'I8' | 'F32'

/** Keys and values of one sequence. Memory grows with the length; the capacity is a limit. */
export interface NativeKvCache {
  readonly length: number
  readonly capacity: number
  readonly dtype: CacheDType
  /** Of the memory in use, what is shared with other caches counted in each. */
  readonly byteLength: number
  /** Forgets all but the first `length` tokens. */
  truncate(length: number): void
  /**
   * Becomes the first `length` tokens of another cache of this model and dtype. Nothing is copied: the caches share
   * what they have in common until one of them writes there.
   */
  copyPrefix(from: NativeKvCache, length: number): void
  dispose(): void
}

export interface SamplerOptions {
  /** 0 (default): always the likeliest token after the penalty. */
  temperature?: number
  /** Draw from so many of the likeliest tokens (default 0: all). */
  topK?: number
  /** Of them, from the smallest set whose probability reaches this (default 1). */
  topP?: number
  /** Of them, from those at least so likely, as a share of the likeliest (default 0). */
  minP?: number
  /** Divides the positive logits, multiplies the negative ones, of recent tokens (default 1: none). */
  repetitionPenalty?: number
  /** How many tokens are recent (default 64). */
  repetitionWindow?: number
  /** A whole number (default 0). */
  seed?: number
  /** So many of the likeliest tokens are told with each drawn one (default 0). */
  topLogprobs?: number
}

/** Draws the tokens of one sequence: its random numbers and its recent tokens. */
export interface NativeSampler {
  /** Draws from these logits [vocab], and accepts the token. */
  sample(logits: Float32Array): SampledToken
  /** Tells it of tokens that it has not drawn, such as a prompt's. */
  accept(ids: Int32Array): void
  dispose(): void
}

export interface TokenLogprob {
  tokenId: number
  /** Natural log of the token's probability under the model's own logits. */
  logprob: number
}

export interface SampledToken extends TokenLogprob {
  /** The `topLogprobs` likeliest tokens, likeliest first. */
  top: TokenLogprob[]
}

export interface StepSequence {
  cache: NativeKvCache
  /** What follows the cached tokens: a prompt or a part of it, or one token. */
  ids: Int32Array
  /** Draws the next token; without one none is drawn. */
  sampler?: NativeSampler
}

export interface NativeDecoderModel {
  /** Makes at once what the first pass would otherwise make. */
  prepare(threads: number): NativeJob<void>
  /** Logits [ids.length, vocab] of one sequence. */
  logits(ids: Int32Array, threads: number): NativeJob<Float32Array>
  /** Negative log-likelihood of ids[t + 1] after ids[0 … t], natural log: ids.length − 1 values, float32. */
  tokenNll(ids: Int32Array, threads: number): NativeJob<Float32Array>
  /**
   * As tokenNll for both models, with KL(reference ‖ this) and whether the likeliest token agrees, for every position
   * but the last.
   */
  compare(
    reference: NativeDecoderModel,
    ids: Int32Array,
    threads: number,
  ): NativeJob<{ nll: Float32Array; referenceNll: Float32Array; kl: Float32Array; agrees: Uint8Array }>
  /** `dtype`: default F16. */
  cache(capacity: number, dtype?: CacheDType): NativeKvCache
  /**
   * Appends every sequence's ids to its cache, in one pass over the weights, and draws the next tokens. Unless it
   * succeeds, caches and samplers stay as they were. A cache or a sampler serves one step at a time.
   */
  step(sequences: readonly StepSequence[], threads: number): NativeJob<(SampledToken | null)[]>
  dispose(): void
}

type ActivationKernel = 'silu' | 'gelu' | 'geluTanh'
export type VectorKernel = 'exp' | 'tanh' | ActivationKernel | `${ActivationKernel}Gradient`

export type InstructionSet = 'portable' | 'avx2' | 'avx512' | 'neon'

/** C [m, n] = alpha · A [m, k] · B [n, k]ᵀ (+ C). Tensors may be larger than m, n, k: their rows are strided then. */
export interface GemmCase {
  m: number
  n: number
  k: number
  a: GemmOperand
  b: GemmOperand
  alpha?: number
  accumulate?: boolean
  /** Only tiles that touch j ≥ i are written. */
  upperOnly?: boolean
  /** Plain loops in float64. */
  reference?: boolean
  repeats?: number
  /** This many equal products, one below the other in c, each started inside a loop of the same thread pool. */
  batch?: number
}

/** y = x · Wᵀ (+ bias). y [tokens, rows] may have more columns. */
export interface PackedProduct {
  matrix: NativePackedMatrix
  y: NativeTensor
  bias?: NativeTensor
}

export interface PackedCase {
  /** y += x · Wᵀ (+ bias). */
  accumulate?: boolean
  /**
   * This many copies of every matrix take turns, repeat after repeat: more than fit a cache are found cold. A product is
   * told which copies come next, as a model tells which layers.
   */
  copies?: number
  repeats?: number
}

export interface GemmOperand {
  tensor: NativeTensor
  /** As stored; or decoded row by row on the fly; or the tensor's columns are the operand's rows (F32). */
  layout: 'rows' | 'reader' | 'columns'
}

/** The right and the duty to load a model that threads share. */
export interface NativeModelClaim {
  publish(model: NativeDecoderModel): void
  /** Gives the claim back, if nothing was published. */
  dispose(): void
}

export interface NativeAddon {
  /** Errors of this environment (main thread or worker) are made by this function from now on. */
  setErrorFactory(make: (code: SlimErrorCode, message: string, details: SlimErrorDetails) => Error): void
  MappedFile: new (path: string) => NativeMappedFile
  /** A copy of a typed array's bytes as a tensor. */
  tensorFrom(array: NodeJS.TypedArray, dtype: DType, shape: readonly number[]): NativeTensor
  /** Zero-filled; with a spill directory backed by an unlinked file there, so that it may exceed memory. */
  allocateTensor(dtype: DType, shape: readonly number[], spillDirectory?: string | null): NativeTensor
  convertTensor(
    tensor: NativeTensor,
    dtype: FloatDType,
    threads: number,
    spillDirectory?: string | null,
  ): NativeJob<NativeTensor>
  /** llama.cpp's interleaved-rotary row order of q and k back to Hugging Face's halves. */
  unpermuteRotaryRows(tensor: NativeTensor, heads: number, threads: number): NativeJob<NativeTensor>
  /** Index of the first NaN or infinity, −1 if all are finite. */
  findNonFinite(tensor: NativeTensor, threads: number): NativeJob<number>

  /** The instruction set that kernels use. */
  instructionSet(): InstructionSet
  /** Those that this processor supports, weakest first. */
  instructionSets(): InstructionSet[]
  /** Internal to tests and benchmarks: kernels that start from now on, in the whole process, use this set. */
  setInstructionSet(name: InstructionSet): void
  /** c [m, n] float32 = a [m, k] · b [n, k]ᵀ; b in any float dtype. */
  matmul(a: NativeTensor, b: NativeTensor, threads: number): NativeJob<NativeTensor>
  /** Internal to tests and benchmarks: the product with all its options, into c; the seconds of each repeat. */
  gemmCase(c: NativeTensor, options: GemmCase, threads: number): NativeJob<Float64Array>
  /** Internal to tests and benchmarks: matrices on one input x (F32) with int8 activations; seconds of each repeat. */
  packedCase(
    x: NativeTensor,
    products: PackedProduct[],
    options: PackedCase,
    threads: number,
  ): NativeJob<Float64Array>

  Hessian: new (size: number, keepEvery: number) => NativeHessian
  PackedMatrix: new (parts: {
    rows: number
    cols: number
    groupSize: number
    qweight: NativeTensor
    groupBits: NativeTensor
    scales: NativeTensor
    qzeros: NativeTensor
  }) => NativePackedMatrix

  quantizeLinear(
    weight: NativeTensor,
    hessian: NativeHessian,
    options: QuantizeLinearOptions,
    threads: number,
  ): NativeJob<QuantizedLinear>
  groupSalience(
    weight: NativeTensor,
    hessian: NativeTensor,
    groupSize: number,
    threads: number,
  ): NativeJob<Float64Array>
  /** U, upper triangular with (H + λI)⁻¹ = UᵀU; λ as a share of the mean diagonal; channels with H_jj = 0. */
  inverseFactor(
    hessian: NativeTensor,
    damping: 'salience' | 'gptq',
    threads: number,
  ): NativeJob<{ upper: NativeTensor; damping: number; dead: Uint8Array }>
  allocateBits(
    weight: NativeTensor,
    samples: NativeTensor,
    salience: Float64Array,
    options: { bits: number; groupSize: number; sequences: number },
    threads: number,
  ): NativeJob<{ groupBits: Uint8Array; kl: Float64Array }>
  fitGroups(
    weight: NativeTensor,
    groupBits: Uint8Array,
    options: { groupSize: number; quantizer: Quantizer },
    threads: number,
  ): NativeJob<NativePackedMatrix>
  gptq(
    weight: NativeTensor,
    hessian: NativeTensor,
    groupBits: Uint8Array,
    /** exactScales, internal to tests: errors fed back are those of scales before they are rounded to float16. */
    options: { groupSize: number; quantizer: Quantizer; exactScales?: boolean },
    threads: number,
  ): NativeJob<NativePackedMatrix>
  /**
   * What width b = 1 … mostBits would cost group g, at [g · mostBits + b − 1]: the loss that GPTQ leaves with all groups at
   * b bits, Σ_o rows[o] ((W − Q) H (W − Q)ᵀ)_oo, in shares of Σ_o rows[o] Σ_j e²/U_jj² (e of the group as it stands).
   */
  groupErrors(
    weight: NativeTensor,
    hessian: NativeHessian,
    rows: Float64Array,
    options: { groupSize: number; quantizer: Quantizer; mostBits: number },
    threads: number,
  ): NativeJob<Float64Array>

  DecoderBlock: new (spec: BlockSpec, weights: BlockWeights) => NativeDecoderBlock
  DecoderModel: new (parts: ModelParts) => NativeDecoderModel
  Sampler: new (options: SamplerOptions) => NativeSampler
  /**
   * The model that a thread of this process has published under the key; or a claim, where none has: the caller loads
   * it; or null, while another thread does.
   */
  sharedModel(key: string): NativeDecoderModel | NativeModelClaim | null
  /** Internal to tests: how many objects of all threads use each of the models that are shared. */
  sharedModels(): Record<string, number>
  /** States [ids.length, hidden] float32 before the first block, of whole sequences of `sequenceLength` tokens. */
  embedTokens(
    ids: Int32Array,
    sequenceLength: number,
    parts: EmbeddingParts,
    spillDirectory: string | null,
    threads: number,
  ): NativeJob<NativeTensor>

  /** From the states [tokens, hidden] float32 after the last block to the gradients of the tokens' likelihoods. */
  headGradient(
    states: NativeTensor,
    options: HeadOptions,
    threads: number,
  ): NativeJob<HeadGradient<NativeTensor>>

  cudaDriver(): CudaDriverFacts
  /** Throws SLIM_DEVICE_UNAVAILABLE, with the reason, without a driver, a device, or kernels that fit. */
  CudaDevice: new (
    index?: number,
  ) => NativeCudaDevice
  CudaModelBuilder: new (device: NativeCudaDevice) => NativeCudaModelBuilder
  CudaTimedWork: new (device: NativeCudaDevice) => NativeCudaTimedWork

  /** Internal to tests and benchmarks: a copy of x (float32) through one vector kernel. */
  applyKernel(name: VectorKernel, x: NativeTensor): Float32Array
  /**
   * Causal attention, softmax(scale · q·k) v: q [tokens, heads, headDim], k and v [past + tokens, kvHeads, headDim],
   * float32, the queries being the last tokens; out as q. softcap and window as in BlockSpec.
   */
  attention(
    q: NativeTensor,
    k: NativeTensor,
    v: NativeTensor,
    options: BlockSpec['attention'],
    threads: number,
  ): NativeJob<Float32Array>
}

/** The package's folder: the nearest one above this file with a package.json. */
export function packageRoot(): string {
  let directory = path.dirname(fileURLToPath(import.meta.url))
  while (!existsSync(path.join(directory, 'package.json'))) directory = path.dirname(directory)
  return directory
}

let loaded: NativeAddon | undefined

/** Loads the one addon of this platform: build/Release first, then prebuilds/. */
export function addon(): NativeAddon {
  if (loaded) return loaded
  const require = createRequire(import.meta.url)
  const root = packageRoot()
  try {
    loaded = require('node-gyp-build')(root) as NativeAddon
  } catch (cause) {
    throw new SlimError(
      'SLIM_NO_ADDON',
      `No native addon for ${process.platform}-${process.arch} in ${root}`,
      {
        cause,
        remedy: `Build it with \`node ${path.join(root, 'scripts', 'build-native.mjs')}\` (needs a C++20 compiler, make and Python)`,
      },
    )
  }
  loaded.setErrorFactory((code, message, details) => new SlimError(code, message, details))
  return loaded
}

/** Awaits a native step; an aborted signal cancels it. What was aborted before it began is so even if it was quick. */
export async function run<T>(job: NativeJob<T>, signal?: AbortSignal): Promise<T> {
  const cancel = () => job.cancel()
  const late = signal?.aborted ?? false
  if (late) cancel()
  signal?.addEventListener('abort', cancel, { once: true })
  try {
    const result = await job.promise
    if (late) throw new SlimError('SLIM_ABORTED', 'The operation was aborted', { cause: signal!.reason })
    return result
  } finally {
    signal?.removeEventListener('abort', cancel)
  }
}
