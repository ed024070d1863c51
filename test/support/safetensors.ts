/** The smallest reader and writer of safetensors, for fixtures and damaged files. */
import { readFileSync, writeFileSync } from 'node:fs'
import { addon, type NativeTensor } from '../../lib/native/addon.js'

type Entry = { dtype: 'F32' | 'I32'; shape: number[]; data_offsets: [number, number] }

/** Every tensor of a file, in native memory. */
export function readSafetensors(path: string | URL): Record<string, NativeTensor> {
  const bytes = readFileSync(path)
  const headerEnd = 8 + Number(bytes.readBigUInt64LE(0))
  const header = JSON.parse(bytes.toString('utf8', 8, headerEnd)) as Record<string, Entry>
  const tensors: Record<string, NativeTensor> = {}
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === '__metadata__') continue
    const data = bytes.subarray(headerEnd + data_offsets[0], headerEnd + data_offsets[1])
    tensors[name] = addon().tensorFrom(new Uint8Array(data), dtype, shape)
  }
  return tensors
}

/** A safetensors file of exactly these parts, however wrong they are. */
export function writeRawSafetensors(
  file: string,
  header: object | string,
  data: Uint8Array | number = 0,
  headerLength?: bigint,
): string {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(headerLength ?? BigInt(json.length))
  writeFileSync(file, Buffer.concat([length, json, typeof data === 'number' ? Buffer.alloc(data) : data]))
  return file
}
