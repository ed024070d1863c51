/** Writes safetensors files: one tensor in memory at a time, whole or not at all, the same bytes every time. */

import { SlimError } from '../errors.js'
import { withAtomicFile } from '../files.js'
import { safetensorsBytes } from './safetensors.js'
import { shapeText } from './tensor_info.js'

export interface SafetensorsEntry {
  name: string
  dtype: string
  shape: readonly number[]
  /** Called once, when its turn comes. Chunks are for tensors too large for one array. */
  bytes(): Uint8Array | Promise<Uint8Array> | AsyncIterable<Uint8Array>
}

/** Bytes up to and including the header: a multiple of 8, so that the first tensor is aligned. */
function encodeHeader(
  path: string,
  entries: readonly SafetensorsEntry[],
  metadata: Readonly<Record<string, string>>,
): Buffer {
  // A Map of own keys: a tensor may be called "__proto__".
  const header: [string, unknown][] = Object.keys(metadata).length > 0 ? [['__metadata__', metadata]] : []
  const seen = new Set(['__metadata__'])
  let offset = 0
  for (const { name, dtype, shape } of entries) {
    const bytes = safetensorsBytes(dtype, shape)
    if (Number.isNaN(bytes))
      throw SlimError.invalidArgument(
        `entries["${name}"]`,
        'a dtype and shape of safetensors',
        `${dtype} ${shape}`,
      )
    if (seen.has(name))
      throw SlimError.invalidArgument('entries', `one tensor named ${name} in ${path}`, 'two')
    seen.add(name)
    header.push([name, { dtype, shape, data_offsets: [offset, offset + bytes] }])
    offset += bytes
  }
  const json = Buffer.from(JSON.stringify(Object.fromEntries(header)), 'utf8')
  const padded = Math.ceil(json.length / 8) * 8
  const out = Buffer.alloc(8 + padded, ' ')
  out.writeBigUInt64LE(BigInt(padded), 0)
  json.copy(out, 8)
  return out
}

/** The names lie in the file in the given order. */
export function writeSafetensors(
  path: string,
  entries: readonly SafetensorsEntry[],
  metadata: Readonly<Record<string, string>> = { format: 'pt' },
): Promise<void> {
  return withAtomicFile(path, async (handle) => {
    // appendFile writes every byte; write may stop short.
    await handle.appendFile(encodeHeader(path, entries, metadata))
    for (const { name, dtype, shape, bytes } of entries) {
      const expected = safetensorsBytes(dtype, shape)
      const given = bytes()
      let written = 0
      for await (const chunk of Symbol.asyncIterator in given ? given : [await given]) {
        written += chunk.byteLength
        if (written <= expected) await handle.appendFile(chunk)
      }
      if (written !== expected)
        throw new SlimError(
          'SLIM_TENSOR_SHAPE',
          `Tensor ${name} for ${path} came with ${written} bytes; ${dtype} ${shapeText(shape)} has ${expected}`,
          { file: path, tensor: name, expected: `${expected} bytes`, received: `${written} bytes` },
        )
    }
  })
}
