/** Where a tensor of a checkpoint lies, and what the errors about it say. */
import { SlimError } from '../errors.js'
import type { FloatDType, NativeTensor } from '../native/addon.js'
import { addon, run } from '../native/addon.js'

export interface TensorInfo {
  readonly name: string
  /** Of the tensor that Checkpoint.tensor gives: safetensors' name, such as "F16" or "I64". */
  readonly dtype: string
  /** As stored in the file: differs for GGUF's blocks only ("Q8_0", decoded to "F16"). */
  readonly storedDtype: string
  /** Row-major, the last dimension contiguous. */
  readonly shape: readonly number[]
  readonly file: string
  /** Of the stored bytes, from the start of the file. */
  readonly byteOffset: number
  readonly byteLength: number
}

export const FLOAT_DTYPES: readonly FloatDType[] = ['F32', 'F16', 'BF16']

/** Dtypes that the native code reads without decoding. */
export const NATIVE_DTYPES = ['F32', 'F16', 'BF16', 'I32', 'U8'] as const

export const shapeText = (shape: readonly number[]) => `[${shape.join(', ')}]`

/** Number of elements; NaN when it is beyond exact integers. */
export function elementsOf(shape: readonly number[]): number {
  // A zero makes the product zero whatever the order; without one, the product only grows.
  if (shape.includes(0)) return 0
  let elements = 1
  for (const dimension of shape) {
    elements *= dimension
    if (elements > Number.MAX_SAFE_INTEGER) return Number.NaN
  }
  return elements
}

export function requireDtype(info: TensorInfo, allowed: readonly string[]): void {
  if (allowed.includes(info.dtype)) return
  throw new SlimError('SLIM_TENSOR_DTYPE', `Tensor ${info.name} in ${info.file} has dtype ${info.dtype}`, {
    file: info.file,
    tensor: info.name,
    expected: allowed.join(', '),
    received: info.dtype,
    remedy: `Convert it to one of ${allowed.join(', ')}`,
  })
}

export function requireShape(info: TensorInfo, shape: readonly number[]): void {
  if (info.shape.length === shape.length && info.shape.every((d, i) => d === shape[i])) return
  throw new SlimError(
    'SLIM_TENSOR_SHAPE',
    `Expected shape ${shapeText(shape)} for tensor ${info.name} in ${info.file} but received ${shapeText(info.shape)}`,
    {
      file: info.file,
      tensor: info.name,
      expected: shapeText(shape),
      received: shapeText(info.shape),
      remedy: 'config.json and the weights do not belong together',
    },
  )
}

/** Throws SLIM_TENSOR_NON_FINITE, with the index of the first such element, if the tensor holds a NaN or infinity. */
export async function requireFinite(
  tensor: NativeTensor,
  name: string,
  file: string,
  threads: number,
): Promise<void> {
  const index = await run(addon().findNonFinite(tensor, threads))
  if (index < 0) return
  const position: number[] = []
  for (let i = tensor.shape.length - 1, rest = index; i >= 0; --i) {
    position.unshift(rest % tensor.shape[i]!)
    rest = Math.floor(rest / tensor.shape[i]!)
  }
  throw new SlimError(
    'SLIM_TENSOR_NON_FINITE',
    `Tensor ${name} in ${file} holds a NaN or infinity at element ${index}, ${shapeText(position)} of ` +
      `${shapeText(tensor.shape)}`,
    {
      file,
      tensor: name,
      expected: 'finite values',
      received: `NaN or infinity at element ${index}`,
      remedy:
        'The file is damaged, or the model diverged or overflowed when it was converted: fetch it again',
    },
  )
}
