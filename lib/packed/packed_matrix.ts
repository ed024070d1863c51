/** One quantized matrix, for servers and researchers who work below whole models. */
import { addon, type NativePackedMatrix, run } from '../native/addon.js'
import { fromMatrix, type Matrix, type StepOptions, toMatrix } from '../native/matrix.js'
import { checkThreads } from '../quantize/options.js'

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

export class PackedMatrix implements Disposable {
  /** Wraps a native packed matrix, which this object owns from now on. */
  constructor(readonly native: NativePackedMatrix) {}

  /** Checks the parts against each other and copies them. */
  static from(parts: PackedParts): PackedMatrix {
    const { tensorFrom, PackedMatrix: Native } = addon()
    const bytes = (array: Uint8Array) => tensorFrom(array, 'U8', [array.length])
    return new PackedMatrix(
      new Native({
        ...parts,
        qweight: bytes(parts.qweight),
        groupBits: bytes(parts.groupBits),
        scales: tensorFrom(parts.scales, 'F16', [parts.groupBits.length, parts.rows]),
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
    return this.native.groupBits().toBytes()
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
      qweight: native.qweight().toBytes(),
      groupBits: this.groupBits,
      scales: new Uint16Array(native.scales().toBytes().buffer),
      qzeros: native.qzeros().toBytes(),
    }
  }

  /** Float32 [rows, cols]. */
  async dequantize({ threads, signal }: StepOptions = {}): Promise<Matrix> {
    return toMatrix(await run(this.native.dequantize(checkThreads(threads)), signal))
  }

  /** y [tokens, rows] = x [tokens, cols] · Wᵀ. */
  async matmul(x: Matrix, { threads, signal }: StepOptions = {}): Promise<Matrix> {
    return toMatrix(await run(this.native.matmul(fromMatrix('x', x), checkThreads(threads)), signal))
  }

  dispose(): void {
    this.native.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
