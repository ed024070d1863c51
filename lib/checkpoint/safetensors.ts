/**
 * Reads the header of a safetensors file: 8 bytes of length, JSON, then the tensors' bytes without holes. Nothing in
 * the header is believed before it is checked against the file's size.
 */

import { SlimError, type SlimErrorDetails } from '../errors.js'
import { isObject, parseJsonObject, withFile } from '../files.js'
import { elementsOf, shapeText, type TensorInfo } from './tensor_info.js'

/** The official reader's limit. */
const MAX_HEADER_BYTES = 100_000_000

/** Bits of an element of every dtype that the format knows. */
const DTYPE_BITS: Readonly<Record<string, number>> = {
  F32: 32,
  F16: 16,
  BF16: 16,
  F64: 64,
  C64: 64,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E5M2FNUZ: 8,
  F8_E4M3FNUZ: 8,
  F8_E8M0: 8,
  F6_E2M3: 6,
  F6_E3M2: 6,
  F4: 4,
  I64: 64,
  I32: 32,
  I16: 16,
  I8: 8,
  U64: 64,
  U32: 32,
  U16: 16,
  U8: 8,
  BOOL: 8,
}

export interface SafetensorsHeader {
  /** In the order of their bytes. */
  tensors: Map<string, TensorInfo>
  metadata: Record<string, string>
}

const bad = (file: string, message: string, details: SlimErrorDetails = {}) =>
  new SlimError('SLIM_BAD_HEADER', `${file}: ${message}`, {
    file,
    remedy: 'The file is damaged or was not written by a safetensors writer: fetch or convert it again',
    ...details,
  })

/** Bytes of a tensor; NaN if they are not a whole number or beyond exact integers. */
export function safetensorsBytes(dtype: string, shape: readonly number[]): number {
  const bytes = (elementsOf(shape) * (DTYPE_BITS[dtype] ?? Number.NaN)) / 8
  return Number.isSafeInteger(bytes) ? bytes : Number.NaN
}

export async function readSafetensorsHeader(file: string): Promise<SafetensorsHeader> {
  const { text, dataStart, fileBytes } = await readHeaderText(file)
  const header = parseJsonObject(text, file, 'SLIM_BAD_HEADER')
  const duplicate = duplicateKey(text)
  if (duplicate !== null)
    throw bad(file, `the header names ${JSON.stringify(duplicate)} twice`, { tensor: duplicate })
  const metadata = header.__metadata__ ?? {}
  if (!isObject(metadata) || Object.values(metadata).some((v) => typeof v !== 'string'))
    throw bad(file, '__metadata__ is not an object of strings', { parameter: '__metadata__' })
  const tensors = Object.entries(header)
    .filter(([name]) => name !== '__metadata__')
    .map(([name, entry]) => tensorInfo(file, name, entry, dataStart))
  tensors.sort((a, b) => a.byteOffset - b.byteOffset || a.byteLength - b.byteLength)
  requireContiguous(file, tensors, dataStart, fileBytes)
  return {
    tensors: new Map(tensors.map((info) => [info.name, info])),
    metadata: metadata as Record<string, string>,
  }
}

function readHeaderText(file: string): Promise<{ text: string; dataStart: number; fileBytes: number }> {
  return withFile(file, async (handle) => {
    const { size: fileBytes } = await handle.stat()
    const length = Buffer.alloc(8)
    if (fileBytes < 8 || (await handle.read(length, 0, 8, 0)).bytesRead < 8)
      throw new SlimError('SLIM_FILE_TRUNCATED', `${file} has ${fileBytes} bytes: too short for a header`, {
        file,
        remedy: 'Fetch it again',
      })
    if (length.toString('latin1') === 'version ')
      throw bad(file, 'this is a Git LFS pointer, not the weights', { remedy: 'Run `git lfs pull`' })
    const headerBytes = Number(length.readBigUInt64LE())
    if (headerBytes > MAX_HEADER_BYTES)
      throw bad(file, `the header claims ${headerBytes} bytes in a file of ${fileBytes}`, {
        expected: `at most ${MAX_HEADER_BYTES}`,
        received: String(headerBytes),
        remedy: 'This is not a safetensors file, or a damaged one: fetch it again',
      })
    if (headerBytes > fileBytes - 8)
      throw new SlimError(
        'SLIM_FILE_TRUNCATED',
        `${file} has ${fileBytes} bytes; its header alone ends at ${8 + headerBytes}`,
        {
          file,
          expected: `at least ${8 + headerBytes} bytes`,
          received: `${fileBytes} bytes`,
          remedy: 'The file is cut short: fetch it again',
        },
      )
    const bytes = Buffer.alloc(headerBytes)
    const { bytesRead } = await handle.read(bytes, 0, headerBytes, 8)
    if (bytesRead < headerBytes) throw bad(file, 'the header could not be read whole')
    if (bytes[0] !== 0x7b) throw bad(file, 'the header does not begin with {')
    try {
      const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
      return { text, dataStart: 8 + headerBytes, fileBytes }
    } catch (cause) {
      throw bad(file, 'the header is not UTF-8', { cause })
    }
  })
}

/** The first key that an object of the JSON text (already known to be valid) holds twice; JSON.parse hides it. */
function duplicateKey(text: string): string | null {
  const token = /"(?:[^"\\]|\\.)*"(\s*:)?|[{}]/g
  const objects: Set<string>[] = []
  for (const [match, colon] of text.matchAll(token)) {
    if (match === '{') objects.push(new Set())
    else if (match === '}') objects.pop()
    else if (colon !== undefined) {
      // Parsed, because "\u0061" and "a" are one key.
      const key = JSON.parse(match.slice(0, match.length - colon.length)) as string
      if (objects.at(-1)!.has(key)) return key
      objects.at(-1)!.add(key)
    }
  }
  return null
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

function tensorInfo(file: string, name: string, entry: unknown, dataStart: number): TensorInfo {
  const fail = (message: string) => bad(file, `tensor ${name} ${message}`, { tensor: name })
  if (!isObject(entry)) throw fail('is not described by an object')
  const { dtype, shape, data_offsets: offsets } = entry
  if (typeof dtype !== 'string') throw fail('has no dtype')
  if (DTYPE_BITS[dtype] === undefined)
    throw new SlimError('SLIM_TENSOR_DTYPE', `${file}: tensor ${name} has the unknown dtype ${dtype}`, {
      file,
      tensor: name,
      received: dtype,
      expected: Object.keys(DTYPE_BITS).join(', '),
    })
  if (!Array.isArray(shape) || !shape.every(isCount)) throw fail('has no shape of whole numbers')
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount))
    throw fail('has no pair of data offsets')
  const [begin, end] = offsets as [number, number]
  if (begin > end) throw fail(`ends at ${end}, before it begins at ${begin}`)
  const byteLength = end - begin
  if (byteLength !== safetensorsBytes(dtype, shape))
    throw fail(
      `has ${byteLength} bytes, but ${dtype} ${shapeText(shape)} needs ${safetensorsBytes(dtype, shape)}`,
    )
  return { name, dtype, storedDtype: dtype, shape, file, byteOffset: dataStart + begin, byteLength }
}

/** `tensors` in the order of their bytes: each begins where the one before ends, and the last ends with the file. */
function requireContiguous(
  file: string,
  tensors: readonly TensorInfo[],
  dataStart: number,
  fileBytes: number,
) {
  let end = dataStart
  let previous: TensorInfo | undefined
  for (const info of tensors) {
    if (info.byteOffset < end)
      throw new SlimError(
        'SLIM_TENSOR_OVERLAP',
        `${file}: tensors ${previous!.name} and ${info.name} overlap`,
        {
          file,
          tensor: info.name,
          expected: `an offset of at least ${end - dataStart}`,
          received: String(info.byteOffset - dataStart),
        },
      )
    if (info.byteOffset > end)
      throw bad(file, `${info.byteOffset - end} bytes before tensor ${info.name} belong to no tensor`, {
        tensor: info.name,
      })
    end = info.byteOffset + info.byteLength
    if (end > fileBytes)
      throw new SlimError(
        'SLIM_FILE_TRUNCATED',
        `${file} has ${fileBytes} bytes; ${info.name} ends at ${end}`,
        {
          file,
          tensor: info.name,
          expected: `at least ${end} bytes`,
          received: `${fileBytes} bytes`,
          remedy: 'The file is cut short: fetch it again',
        },
      )
    previous = info
  }
  if (end < fileBytes) throw bad(file, `${fileBytes - end} bytes after the last tensor belong to no tensor`)
}
