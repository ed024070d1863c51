/** Plain matrices of the public functions, and their native tensors. */
import { SlimError } from '../errors.js'
import { addon, type NativeTensor } from './addon.js'
import { Handles } from './handles.js'

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

/** A matrix as a native tensor, which the caller disposes. */
export function fromMatrix(parameter: string, { data, rows, cols }: Matrix): NativeTensor {
  if (!(data instanceof Float32Array) || data.length !== rows * cols)
    throw SlimError.invalidArgument(
      `${parameter}.data`,
      `a Float32Array of ${rows} × ${cols} values`,
      data instanceof Float32Array ? `${data.length} values` : typeof data,
    )
  return addon().tensorFrom(data, 'F32', [rows, cols])
}

/** A copy of a native tensor [rows, cols], which is disposed. */
export function toMatrix(tensor: NativeTensor): Matrix {
  using tensors = new Handles()
  const [rows, cols] = tensors.own(tensor).shape as [number, number]
  return { data: tensor.toFloat32Array(), rows, cols }
}
