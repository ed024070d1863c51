/** A small GGUF writer, and plain references of the block formats. */
import { writeFileSync } from 'node:fs'
import { floatToHalf, halfToFloat } from './half.js'

export type GgufType = 'F32' | 'F16' | 'BF16' | 'Q8_0' | 'Q4_0' | 'Q4_1'
const TYPE_IDS: Record<string, number> = {
  ...{ F32: 0, F16: 1, BF16: 30, Q4_0: 2, Q4_1: 3, Q5_0: 6, Q5_1: 7, Q8_0: 8, Q2_0: 42, TQ2_0: 35 },
  ...{ Q2_K: 10, Q3_K: 11, Q4_K: 12, Q5_K: 13, Q6_K: 14, IQ4_NL: 20, IQ4_XS: 23 },
}

export interface GgufTensorInput {
  name: string
  type: string
  /** Row-major. */
  shape: number[]
  bytes: Uint8Array
  /** Claimed instead of the right one. */
  offset?: number
  typeId?: number
}

type Scalar = ['u32' | 'f32' | 'u64', number] | ['bool', boolean] | ['string', string]
export type MetadataInput = Scalar | ['strings', string[]] | ['i32s', number[]] | ['raw', Buffer]

const u32 = (v: number) => {
  const b = Buffer.alloc(4)
  b.writeUInt32LE(v)
  return b
}
const u64 = (v: number | bigint) => {
  const b = Buffer.alloc(8)
  b.writeBigUInt64LE(BigInt(v))
  return b
}
const ggufString = (s: string) => Buffer.concat([u64(Buffer.byteLength(s)), Buffer.from(s)])

function value([kind, v]: MetadataInput): Buffer {
  switch (kind) {
    case 'u32':
      return Buffer.concat([u32(4), u32(v)])
    case 'u64':
      return Buffer.concat([u32(10), u64(v)])
    case 'f32': {
      const b = Buffer.alloc(4)
      b.writeFloatLE(v)
      return Buffer.concat([u32(6), b])
    }
    case 'bool':
      return Buffer.concat([u32(7), Buffer.from([v ? 1 : 0])])
    case 'string':
      return Buffer.concat([u32(8), ggufString(v)])
    case 'strings':
      return Buffer.concat([u32(9), u32(8), u64(v.length), ...v.map(ggufString)])
    case 'i32s':
      return Buffer.concat([u32(9), u32(5), u64(v.length), Buffer.from(Int32Array.from(v).buffer)])
    case 'raw':
      return v
  }
}

export interface GgufInput {
  metadata: [string, MetadataInput][]
  tensors: GgufTensorInput[]
  version?: number
  tensorCount?: number | bigint
  keyCount?: number | bigint
}

export function encodeGguf({ metadata, tensors, version = 3, tensorCount, keyCount }: GgufInput): Buffer {
  const alignment = 32
  const infos: Buffer[] = []
  const data: Buffer[] = []
  let offset = 0
  for (const { name, type, shape, bytes, offset: claimed, typeId } of tensors) {
    const dimensions = [...shape].reverse().map(u64)
    infos.push(ggufString(name), u32(shape.length), ...dimensions, u32(typeId ?? TYPE_IDS[type]!))
    infos.push(u64(claimed ?? offset))
    const padded = Buffer.alloc(Math.ceil(bytes.length / alignment) * alignment)
    padded.set(bytes)
    data.push(padded)
    offset += padded.length
  }
  const header = Buffer.concat([
    Buffer.from('GGUF'),
    u32(version),
    u64(tensorCount ?? tensors.length),
    u64(keyCount ?? metadata.length),
    ...metadata.flatMap(([key, v]) => [ggufString(key), value(v)]),
    ...infos,
  ])
  const padding = Buffer.alloc((alignment - (header.length % alignment)) % alignment)
  return Buffer.concat([header, padding, ...data])
}

export function writeGguf(file: string, input: GgufInput): string {
  writeFileSync(file, encodeGguf(input))
  return file
}

/** Any values as bytes of the type: blocks get the nearest codes, by plain rounding. */
export function encodeValues(type: GgufType, values: ArrayLike<number>): Uint8Array {
  const bytesOf = (a: Float32Array | Uint16Array) => new Uint8Array(a.buffer)
  if (type === 'F32') return bytesOf(Float32Array.from(values))
  if (type === 'F16') return bytesOf(Uint16Array.from(values, floatToHalf))
  if (type === 'BF16') {
    const words = new Uint32Array(Float32Array.from(values).buffer)
    return bytesOf(Uint16Array.from(words, (w) => w >>> 16))
  }
  const out: number[] = []
  const pushHalf = (v: number) => {
    const h = floatToHalf(v)
    out.push(h & 255, h >> 8)
    return halfToFloat(h)
  }
  for (let start = 0; start < values.length; start += 32) {
    const block = Array.from({ length: 32 }, (_, i) => values[start + i]!)
    const largest = Math.max(...block.map(Math.abs)) || 1
    const clamp = (v: number, lo: number, hi: number) => Math.min(hi, Math.max(lo, Math.round(v)))
    if (type === 'Q8_0') {
      const d = pushHalf(largest / 127)
      out.push(...block.map((v) => clamp(v / d, -127, 127) & 255))
      continue
    }
    const minimum = Math.min(...block)
    const d = pushHalf(type === 'Q4_0' ? largest / 7 : (Math.max(...block) - minimum || 1) / 15)
    const shift = type === 'Q4_0' ? -8 * d : pushHalf(minimum)
    const codes = block.map((v) => clamp((v - shift) / d, 0, 15))
    for (let i = 0; i < 16; ++i) out.push(codes[i]! | (codes[i + 16]! << 4))
  }
  return Uint8Array.from(out)
}

/** What the bytes mean, in double precision. */
export function decodeValues(type: GgufType, bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const list = (stride: number, read: (offset: number) => number) =>
    Array.from({ length: bytes.length / stride }, (_, i) => read(i * stride))
  if (type === 'F32') return list(4, (o) => view.getFloat32(o, true))
  if (type === 'F16') return list(2, (o) => halfToFloat(view.getUint16(o, true)))
  if (type === 'BF16') {
    const word = new DataView(new ArrayBuffer(4))
    return list(2, (o) => {
      word.setUint32(0, view.getUint16(o, true) << 16)
      return word.getFloat32(0)
    })
  }
  const blockBytes = { Q8_0: 34, Q4_0: 18, Q4_1: 20 }[type]
  const out: number[] = []
  for (let o = 0; o < bytes.length; o += blockBytes) {
    const d = halfToFloat(view.getUint16(o, true))
    if (type === 'Q8_0') {
      for (let i = 0; i < 32; ++i) out.push(view.getInt8(o + 2 + i) * d)
      continue
    }
    const codes = o + (type === 'Q4_1' ? 4 : 2)
    const code = (i: number) => (i < 16 ? bytes[codes + i]! & 15 : bytes[codes + i - 16]! >> 4)
    const shift = type === 'Q4_1' ? halfToFloat(view.getUint16(o + 2, true)) : -8 * d
    for (let i = 0; i < 32; ++i) out.push(code(i) * d + shift)
  }
  return out
}
