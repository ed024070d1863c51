/** slimllm: makes and runs 1- to 4-bit large language models. This file is the whole public surface. */
export { decoderSpec } from './architecture/index.js'
export type { BlockSpec, DecoderBlockSpec, DecoderSpec, LinearSpec, NormSpec } from './architecture/spec.js'
export { type CalibrationSamples, type SamplingOptions, sampleWindows } from './calibration/samples.js'
export {
  type AuxiliaryFile,
  type Checkpoint,
  type OpenOptions,
  openCheckpoint,
  type TokenizerFiles,
} from './checkpoint/checkpoint.js'
export { type SaveOptions, saveCheckpoint } from './checkpoint/save.js'
export type { TensorInfo } from './checkpoint/tensor_info.js'
export { SlimError, type SlimErrorCode, type SlimErrorDetails } from './errors.js'
export { type EvaluateOptions, type Evaluation, evaluatePerplexity } from './evaluate/perplexity.js'
export type {
  Activations,
  BlockDType,
  CacheDType,
  DType,
  FloatDType,
  LinearRole,
  NativeDecoderModel,
  NativeJob,
  NativeKvCache,
  NativePackedMatrix,
  NativeSampler,
  NativeTensor,
  NormRole,
  Quantizer,
  SampledToken,
  SamplerOptions,
  StepSequence,
  TapName,
  TokenLogprob,
} from './native/addon.js'
export type { Device } from './native/device.js'
export type { Matrix, StepOptions } from './native/matrix.js'
export type { LayerReport, Manifest, Timing } from './packed/manifest.js'
export { type MatmulOptions, PackedMatrix, type PackedParts } from './packed/packed_matrix.js'
export type {
  BitMap,
  CalibrationOptions,
  LayerOverride,
  Method,
  QuantizeOptions,
  QuantizeProgress,
  Recipe,
  Settings,
} from './quantize/options.js'
export { type QuantizeReport, quantize } from './quantize/pipeline.js'
export { allocateBits, fitGroups, gptq, groupSalience } from './quantize/steps.js'
export { allocationSvg, errorSvg } from './report/allocation.js'
export { type SizeQualityOptions, type SizeQualityPoint, sizeQualitySvg } from './report/size_quality.js'
export type { ChatMessage, ChatTemplateOptions } from './runtime/chat_template.js'
export type { GenerateOptions, KvCacheType } from './runtime/generate_options.js'
export type { FinishReason, GeneratedToken, Generation } from './runtime/generation.js'
export { type LoadOptions, loadModel, type Model } from './runtime/model.js'
export type {
  ChatOptions,
  SequenceOptions,
  Session,
  SessionChatOptions,
  SessionOptions,
} from './runtime/session.js'
export {
  type DecodeOptions,
  type EncodeOptions,
  loadTokenizer,
  type Tokenizer,
  type TokenizerSource,
} from './runtime/tokenizer.js'
export type { SlimWarning, SlimWarningCode } from './warnings.js'
