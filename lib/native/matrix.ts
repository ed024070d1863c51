/** Plain matrices of the public functions, and their native tensors. */
import { SlimError } from '../errors.js'
import { addon, type NativeTensor } from './addon.js'

/** Row-major float32 [rows, cols]. */
export interface Matrix {
  data: Float32Array
  rows: number
  cols: number
}

export interface StepOptions {
  /** Default: all cores. */
  threads?: number
  signal?: AbortSignal
}

/** A matrix as a native tensor. */
export function fromMatrix(parameter: string, { data, rows, cols }: Matrix): NativeTensor {
  if (!(data instanceof Float32Array) || data.length !== rows * cols)
    throw SlimError.invalidArgument(
      `${parameter}.data`,
      `a Float32Array of ${rows} × ${cols} values`,
      data instanceof Float32Array ? `${data.length} values` : typeof data,
    )
  return addon().tensorFrom(data, 'F32', [rows, cols])
}

/** A copy of a native tensor [rows, cols]. */
export function toMatrix(tensor: NativeTensor): Matrix {
  const [rows, cols] = tensor.shape as [number, number]
  const data = tensor.toFloat32Array()
  tensor.dispose()
  return { data, rows, cols }
}
