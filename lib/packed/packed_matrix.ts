/** One quantized matrix, for servers and researchers who work below whole models. */
import { type Activations, addon, type NativePackedMatrix, type NativeTensor, run } from '../native/addon.js'
import { checkThreads } from '../native/device.js'
import { Handles } from '../native/handles.js'
import { fromMatrix, type Matrix, type StepOptions, toMatrix } from '../native/matrix.js'

/** The parts of docs/format.md, as read from a packed folder. */
export interface PackedParts {
  rows: number
  cols: number
  groupSize: number
  qweight: Uint8Array
  groupBits: Uint8Array
  /** Float16 bit patterns [groups, rows]. */
  scales: Uint16Array
  qzeros: Uint8Array
}

export interface MatmulOptions extends StepOptions {
  /** 'int8' (default): x is rounded to 8 bits, one scale a group and row, and the product is integer and fast. */
  activations?: Activations
}

export class PackedMatrix implements Disposable {
  /** Wraps a native packed matrix, which this object owns from now on. */
  constructor(readonly native: NativePackedMatrix) {}

  /** Checks the parts against each other and copies them. */
  static from(parts: PackedParts): PackedMatrix {
    const { tensorFrom, PackedMatrix: Native } = addon()
    using tensors = new Handles()
    const bytes = (array: Uint8Array) => tensors.own(tensorFrom(array, 'U8', [array.length]))
    return new PackedMatrix(
      new Native({
        ...parts,
        qweight: bytes(parts.qweight),
        groupBits: bytes(parts.groupBits),
        scales: tensors.own(tensorFrom(parts.scales, 'F16', [parts.groupBits.length, parts.rows])),
        qzeros: bytes(parts.qzeros),
      }),
    )
  }

  get rows(): number {
    return this.native.rows
  }

  get cols(): number {
    return this.native.cols
  }

  get groupSize(): number {
    return this.native.groupSize
  }

  /** Bits of every group. */
  get groupBits(): Uint8Array {
    return bytesOf(this.native.groupBits())
  }

  /** Everything counted: codes, group bits, scales, zero points and means. */
  get storedBitsPerWeight(): number {
    return (8 * this.native.storedBytes) / (this.rows * this.cols)
  }

  /** The parts, copied. */
  parts(): PackedParts {
    const { rows, cols, groupSize, native } = this
    return {
      rows,
      cols,
      groupSize,
      qweight: bytesOf(native.qweight()),
      groupBits: this.groupBits,
      scales: new Uint16Array(bytesOf(native.scales()).buffer),
      qzeros: bytesOf(native.qzeros()),
    }
  }

  /** Float32 [rows, cols]. */
  async dequantize({ threads, signal }: StepOptions = {}): Promise<Matrix> {
    return toMatrix(await run(this.native.dequantize(checkThreads(threads)), signal))
  }

  /** y [tokens, rows] = x [tokens, cols] · Wᵀ. */
  async matmul(x: Matrix, { threads, signal, activations = 'int8' }: MatmulOptions = {}): Promise<Matrix> {
    using inputs = new Handles()
    const job = this.native.matmul(inputs.own(fromMatrix('x', x)), checkThreads(threads), activations)
    return toMatrix(await run(job, signal))
  }

  dispose(): void {
    this.native.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

/** A copy of the bytes of a tensor that is needed no longer. */
function bytesOf(tensor: NativeTensor): Uint8Array {
  using tensors = new Handles()
  return tensors.own(tensor).toBytes()
}
