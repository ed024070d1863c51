/** The smallest reader of safetensors, for fixtures. */
import { readFileSync } from 'node:fs'
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
