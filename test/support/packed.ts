/** The packed layout of docs/format.md, read and written by plain loops: the oracle of native/quant/packed_matrix. */
import { addon, type NativePackedMatrix, run } from '../../lib/native/addon.js'
import { normals, uniform } from './random.js'

export interface Parts {
  rows: number
  cols: number
  groupSize: number
  groupBits: Uint8Array
  /** [rows, cols] */
  codes: Uint8Array
  /** [groups, rows] */
  scales: Float32Array
  /** [groups, rows]: zero points; means of 1-bit groups. */
  offsets: Float32Array
}

/** The float16 bits of float32 values, and the values that they stand for. */
export async function toHalf(values: ArrayLike<number>): Promise<{ bits: Uint8Array; values: Float32Array }> {
  const tensor = addon().tensorFrom(Float32Array.from(values), 'F32', [values.length])
  const half = await run(addon().convertTensor(tensor, 'F16', 1))
  return { bits: half.toBytes(), values: half.toFloat32Array() }
}

function bitString(values: ArrayLike<number>, bits: number): Uint8Array {
  const bytes = new Uint8Array(Math.ceil((values.length * bits) / 8))
  for (let i = 0; i < values.length; i++)
    for (let b = 0; b < bits; b++)
      if ((values[i]! >> b) & 1) bytes[(i * bits + b) >> 3]! |= 1 << ((i * bits + b) & 7)
  return bytes
}

function fromBitString(bytes: Uint8Array, count: number, bits: number): Uint8Array {
  const values = new Uint8Array(count)
  for (let i = 0; i < count * bits; i++)
    if ((bytes[i >> 3]! >> (i & 7)) & 1) values[Math.floor(i / bits)]! |= 1 << (i % bits)
  return values
}

function concatenate(pieces: Uint8Array[]): Uint8Array {
  const all = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0))
  let offset = 0
  for (const piece of pieces) {
    all.set(piece, offset)
    offset += piece.length
  }
  return all
}

/** The bytes of qweight and qzeros. */
export async function packParts({ rows, cols, groupSize, groupBits, codes, offsets }: Parts) {
  const weights: Uint8Array[] = []
  const zeros: Uint8Array[] = []
  for (const [g, bits] of groupBits.entries()) {
    const end = Math.min(cols, (g + 1) * groupSize)
    for (let r = 0; r < rows; r++)
      weights.push(bitString(codes.subarray(r * cols + g * groupSize, r * cols + end), bits))
    const group = offsets.subarray(g * rows, (g + 1) * rows)
    zeros.push(bits === 1 ? (await toHalf(group)).bits : bitString(group, bits))
  }
  return { qweight: concatenate(weights), qzeros: concatenate(zeros) }
}

/** Everything that a packed matrix holds. */
export function unpack(packed: NativePackedMatrix): Parts {
  const { rows, cols, groupSize } = packed
  const groupBits = packed.groupBits().toBytes()
  const [qweight, qzeros] = [packed.qweight().toBytes(), packed.qzeros().toBytes()]
  const codes = new Uint8Array(rows * cols)
  const offsets = new Float32Array(groupBits.length * rows)
  let [at, zeroAt] = [0, 0]
  groupBits.forEach((bits, g) => {
    const begin = g * groupSize
    const width = Math.min(cols, begin + groupSize) - begin
    const rowBytes = Math.ceil((width * bits) / 8)
    for (let r = 0; r < rows; r++, at += rowBytes)
      codes.set(fromBitString(qweight.subarray(at, at + rowBytes), width, bits), r * cols + begin)
    const zeroBytes = bits === 1 ? rows * 2 : Math.ceil((rows * bits) / 8)
    const bytes = qzeros.slice(zeroAt, zeroAt + zeroBytes)
    offsets.set(
      bits === 1
        ? addon().tensorFrom(bytes, 'F16', [rows]).toFloat32Array()
        : fromBitString(bytes, rows, bits),
      g * rows,
    )
    zeroAt += zeroBytes
  })
  return { rows, cols, groupSize, groupBits, codes, scales: packed.scales().toFloat32Array(), offsets }
}

/** weight = scale · (code − zero); 1 bit: mean ± scale. */
export function dequantizeParts({
  rows,
  cols,
  groupSize,
  groupBits,
  codes,
  scales,
  offsets,
}: Parts): Float32Array {
  return Float32Array.from(codes, (code, index) => {
    const g = Math.floor((index % cols) / groupSize)
    const at = g * rows + Math.floor(index / cols)
    if (groupBits[g] === 1) return offsets[at]! + (code ? scales[at]! : -scales[at]!)
    return scales[at]! * (code - offsets[at]!)
  })
}

/** Random parts, exactly representable. */
export async function randomParts(
  rows: number,
  cols: number,
  groupSize: number,
  groupBits: Uint8Array,
): Promise<Parts> {
  const random = uniform(rows * cols + groupSize)
  const codes = new Uint8Array(rows * cols)
  const offsets = new Float32Array(groupBits.length * rows)
  for (let i = 0; i < codes.length; i++)
    codes[i] = random() * 2 ** groupBits[Math.floor((i % cols) / groupSize)]!
  const means = (await toHalf(normals(4, offsets.length))).values
  for (let i = 0; i < offsets.length; i++) {
    const bits = groupBits[Math.floor(i / rows)]!
    offsets[i] = bits === 1 ? means[i]! : Math.floor(random() * 2 ** bits)
  }
  const scales = (await toHalf(normals(3, offsets.length).map((s) => Math.abs(s) + 0.01))).values
  return { rows, cols, groupSize, groupBits, codes, scales, offsets }
}

/** What the native PackedMatrix is made of. */
export async function tensorsOf(parts: Parts) {
  const { qweight, qzeros } = await packParts(parts)
  const { rows, cols, groupSize, groupBits, scales } = parts
  const { tensorFrom } = addon()
  return {
    rows,
    cols,
    groupSize,
    qweight: tensorFrom(qweight, 'U8', [qweight.length]),
    groupBits: tensorFrom(groupBits, 'U8', [groupBits.length]),
    scales: tensorFrom((await toHalf(scales)).bits, 'F16', [groupBits.length, rows]),
    qzeros: tensorFrom(qzeros, 'U8', [qzeros.length]),
  }
}
