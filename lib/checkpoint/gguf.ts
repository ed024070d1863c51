/**
 * Reads the header of a GGUF file: metadata and the tensors' places.
 *
 * @huggingface/gguf is not used: it fills a buffer past the end of the file with zeros, so a file cut inside its
 * metadata parses as one with empty names and no error (seen at every cut tried), it keeps the last of two equal keys,
 * and it computes the data offset with 32-bit operations. Here every count is bounded by the bytes that are there.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { SlimError, type SlimErrorDetails } from '../errors.js'
import { elementsOf, shapeText } from './tensor_info.js'

export type GgufValue = number | bigint | boolean | string | GgufValue[]

export interface GgufTensor {
  name: string
  /** "Q4_1", …: ggml's name of the type. */
  type: string
  /** Row-major, the last dimension contiguous (the file has them the other way round). */
  shape: number[]
  /** From the start of the file. */
  byteOffset: number
  byteLength: number
}

export interface GgufHeader {
  metadata: Map<string, GgufValue>
  tensors: Map<string, GgufTensor>
}

/** Name, elements and bytes of a block of the types that can be read; the rest have names for the error. */
const TYPES: Readonly<Record<number, readonly [name: string, elements: number, bytes: number]>> = {
  0: ['F32', 1, 4],
  1: ['F16', 1, 2],
  2: ['Q4_0', 32, 18],
  3: ['Q4_1', 32, 20],
  6: ['Q5_0', 32, 22],
  7: ['Q5_1', 32, 24],
  8: ['Q8_0', 32, 34],
  10: ['Q2_K', 256, 84],
  11: ['Q3_K', 256, 110],
  12: ['Q4_K', 256, 144],
  13: ['Q5_K', 256, 176],
  14: ['Q6_K', 256, 210],
  20: ['IQ4_NL', 32, 18],
  23: ['IQ4_XS', 256, 136],
  30: ['BF16', 1, 2],
  35: ['TQ2_0', 256, 66],
  42: ['Q2_0', 64, 18],
}
const UNSUPPORTED_TYPES: Readonly<Record<number, string>> = {
  9: 'Q8_1',
  15: 'Q8_K',
  16: 'IQ2_XXS',
  17: 'IQ2_XS',
  18: 'IQ3_XXS',
  19: 'IQ1_S',
  21: 'IQ3_S',
  22: 'IQ2_S',
  24: 'I8',
  25: 'I16',
  26: 'I32',
  27: 'I64',
  28: 'F64',
  29: 'IQ1_M',
  34: 'TQ1_0',
  39: 'MXFP4',
  40: 'NVFP4',
  41: 'Q1_0',
}

const MAX_KEYS = 65_536
const MAX_TENSORS = 1_000_000
/** All arrays together: vocabulary, types, scores and merges of the largest models have about a million. */
const MAX_ARRAY_ELEMENTS = 8_000_000
const MAX_ARRAY_DEPTH = 4
const MAX_STRING_BYTES = 64 * 2 ** 20
const MAX_HEADER_BYTES = 512 * 2 ** 20
const WINDOW_BYTES = 2 ** 20

/** Reads forward through a file, never past its end. */
class Cursor {
  private window = Buffer.alloc(0)
  private windowStart = 0
  private position = 0
  private readonly utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

  constructor(
    private readonly descriptor: number,
    readonly file: string,
    readonly fileBytes: number,
  ) {}

  get offset(): number {
    return this.windowStart + this.position
  }

  bad(message: string, details: SlimErrorDetails = {}): SlimError {
    return new SlimError('SLIM_BAD_HEADER', `${this.file}: ${message}`, {
      file: this.file,
      remedy: 'The file is damaged or is not a GGUF file: fetch it again',
      ...details,
    })
  }

  /** The next n bytes. */
  take(n: number): Buffer {
    if (this.position + n > this.window.length) this.refill(n)
    const bytes = this.window.subarray(this.position, this.position + n)
    this.position += n
    return bytes
  }

  private refill(n: number): void {
    const start = this.offset
    if (n > this.fileBytes - start)
      throw new SlimError(
        'SLIM_FILE_TRUNCATED',
        `${this.file} ends inside its header, at byte ${this.fileBytes}`,
        {
          file: this.file,
          expected: `at least ${start + n} bytes`,
          received: `${this.fileBytes} bytes`,
          remedy: 'Fetch it again',
        },
      )
    if (start + n > MAX_HEADER_BYTES) throw this.bad(`the header has more than ${MAX_HEADER_BYTES} bytes`)
    const window = Buffer.alloc(Math.min(Math.max(n, WINDOW_BYTES), this.fileBytes - start))
    for (let done = 0; done < window.length; ) {
      const read = readSync(this.descriptor, window, done, window.length - done, start + done)
      if (read === 0) throw this.bad('the file became shorter while it was read')
      done += read
    }
    this.window = window
    this.windowStart = start
    this.position = 0
  }

  u32 = () => this.take(4).readUInt32LE()

  /** A 64-bit count, at most `limit`. */
  count(what: string, limit: number): number {
    const value = this.take(8).readBigUInt64LE()
    if (value > BigInt(limit)) throw this.bad(`${what} is ${value}; at most ${limit} can be right`)
    return Number(value)
  }

  string(what: string): string {
    const bytes = this.take(this.count(`the length of ${what}`, MAX_STRING_BYTES))
    try {
      return this.utf8.decode(bytes)
    } catch (cause) {
      throw this.bad(`${what} is not UTF-8`, { cause })
    }
  }
}

const exact = (value: bigint): number | bigint =>
  value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER ? Number(value) : value

const SCALARS: Readonly<Record<number, { bytes: number; read: (b: Buffer) => GgufValue }>> = {
  0: { bytes: 1, read: (b) => b.readUInt8() },
  1: { bytes: 1, read: (b) => b.readInt8() },
  2: { bytes: 2, read: (b) => b.readUInt16LE() },
  3: { bytes: 2, read: (b) => b.readInt16LE() },
  4: { bytes: 4, read: (b) => b.readUInt32LE() },
  5: { bytes: 4, read: (b) => b.readInt32LE() },
  6: { bytes: 4, read: (b) => b.readFloatLE() },
  7: { bytes: 1, read: (b) => b.readUInt8() !== 0 },
  10: { bytes: 8, read: (b) => exact(b.readBigUInt64LE()) },
  11: { bytes: 8, read: (b) => exact(b.readBigInt64LE()) },
  12: { bytes: 8, read: (b) => b.readDoubleLE() },
}
const STRING = 8
const ARRAY = 9

function readValue(
  cursor: Cursor,
  key: string,
  type: number,
  budget: { elements: number },
  depth = 0,
): GgufValue {
  const scalar = SCALARS[type]
  if (scalar) return scalar.read(cursor.take(scalar.bytes))
  if (type === STRING) return cursor.string(`a string of ${key}`)
  if (type !== ARRAY || depth >= MAX_ARRAY_DEPTH)
    throw cursor.bad(
      type === ARRAY ? `${key} nests arrays too deep` : `${key} has the unknown value type ${type}`,
    )
  const elementType = cursor.u32()
  const length = cursor.count(`the length of ${key}`, budget.elements)
  budget.elements -= length
  const values: GgufValue[] = []
  for (let i = 0; i < length; ++i) values.push(readValue(cursor, key, elementType, budget, depth + 1))
  return values
}

export function readGgufHeader(file: string): GgufHeader {
  let descriptor: number | undefined
  try {
    descriptor = openSync(file, 'r')
    return readHeader(new Cursor(descriptor, file, fstatSync(descriptor).size))
  } catch (error) {
    throw SlimError.from(error, { file })
  } finally {
    if (descriptor !== undefined) closeSync(descriptor)
  }
}

function readHeader(cursor: Cursor): GgufHeader {
  if (cursor.take(4).toString('latin1') !== 'GGUF') throw cursor.bad('it does not begin with "GGUF"')
  const version = cursor.u32()
  if (version !== 2 && version !== 3)
    throw new SlimError(
      'SLIM_UNSUPPORTED_FORMAT',
      `${cursor.file} has GGUF version ${version}${version > 0xffff ? ' (big-endian)' : ''}`,
      {
        file: cursor.file,
        expected: 'little-endian version 2 or 3',
        received: String(version),
        remedy: 'Convert it with a recent llama.cpp',
      },
    )
  const tensorCount = cursor.count('the number of tensors', MAX_TENSORS)
  const keyCount = cursor.count('the number of metadata keys', MAX_KEYS)
  const metadata = new Map<string, GgufValue>()
  const budget = { elements: MAX_ARRAY_ELEMENTS }
  for (let i = 0; i < keyCount; ++i) {
    const key = cursor.string('a metadata key')
    if (metadata.has(key)) throw cursor.bad(`the metadata key ${JSON.stringify(key)} comes twice`)
    metadata.set(key, readValue(cursor, key, cursor.u32(), budget))
  }
  const entries: GgufTensor[] = []
  for (let i = 0; i < tensorCount; ++i) entries.push(readTensor(cursor))
  const alignment = metadata.get('general.alignment') ?? 32
  if (
    typeof alignment !== 'number' ||
    !(alignment >= 1 && alignment <= 2 ** 20) ||
    !Number.isInteger(alignment)
  )
    throw cursor.bad(`general.alignment is ${alignment}`, { parameter: 'general.alignment' })
  const dataStart = Math.ceil(cursor.offset / alignment) * alignment
  for (const entry of entries) {
    if (entry.byteOffset % alignment !== 0)
      throw cursor.bad(`tensor ${entry.name} is not aligned to ${alignment} bytes`, { tensor: entry.name })
    entry.byteOffset += dataStart
  }
  requireDisjoint(cursor, entries)
  const tensors = new Map(entries.map((entry) => [entry.name, entry]))
  if (tensors.size < entries.length) {
    const twice = entries.find((entry) => tensors.get(entry.name) !== entry)!.name
    throw cursor.bad(`tensor ${twice} comes twice`, { tensor: twice })
  }
  return { metadata, tensors }
}

/** One entry; its offset is still from the start of the data. */
function readTensor(cursor: Cursor): GgufTensor {
  const name = cursor.string('a tensor name')
  const rank = cursor.u32()
  if (rank > 4)
    throw cursor.bad(`tensor ${name} has ${rank} dimensions; at most 4 can be right`, { tensor: name })
  const shape: number[] = []
  for (let i = 0; i < rank; ++i)
    shape.unshift(cursor.count(`a dimension of ${name}`, Number.MAX_SAFE_INTEGER))
  const typeId = cursor.u32()
  const type = TYPES[typeId]
  if (!type) {
    const received = UNSUPPORTED_TYPES[typeId] ?? `type ${typeId}`
    const expected = Object.values(TYPES)
      .map(([typeName]) => typeName)
      .join(', ')
    throw new SlimError(
      'SLIM_TENSOR_DTYPE',
      `${cursor.file}: tensor ${name} is ${received}, which is not supported`,
      {
        file: cursor.file,
        tensor: name,
        expected,
        received,
        remedy: `Quantize from the original weights, or from a GGUF file of ${expected}`,
      },
    )
  }
  const [typeName, blockElements, blockBytes] = type
  const byteLength = (elementsOf(shape) / blockElements) * blockBytes
  if (!Number.isSafeInteger(byteLength) || (shape.at(-1) ?? 1) % blockElements !== 0)
    throw cursor.bad(`tensor ${name} cannot be ${typeName} of shape ${shapeText(shape)}`, { tensor: name })
  const byteOffset = cursor.count(`the offset of ${name}`, Number.MAX_SAFE_INTEGER)
  return { name, type: typeName, shape, byteOffset, byteLength }
}

function requireDisjoint(cursor: Cursor, entries: readonly GgufTensor[]): void {
  const sorted = entries.filter((entry) => entry.byteLength > 0).sort((a, b) => a.byteOffset - b.byteOffset)
  sorted.forEach((entry, i) => {
    const previous = sorted[i - 1]
    if (previous && previous.byteOffset + previous.byteLength > entry.byteOffset)
      throw new SlimError(
        'SLIM_TENSOR_OVERLAP',
        `${cursor.file}: tensors ${previous.name} and ${entry.name} overlap`,
        { file: cursor.file, tensor: entry.name },
      )
    const end = entry.byteOffset + entry.byteLength
    if (end > cursor.fileBytes)
      throw new SlimError(
        'SLIM_FILE_TRUNCATED',
        `${cursor.file} has ${cursor.fileBytes} bytes; ${entry.name} ends at ${end}`,
        {
          file: cursor.file,
          tensor: entry.name,
          expected: `at least ${end} bytes`,
          received: `${cursor.fileBytes} bytes`,
          remedy: 'The file is cut short: fetch it again',
        },
      )
  })
}
