/** A safetensors file as native tensors, for tests: JSON header, then views of the mapped file. */
import { readFileSync } from 'node:fs'
import { addon, type DType, type NativeTensor } from '../../lib/native/addon.js'

export interface StoredTensor {
  dtype: DType
  shape: number[]
  tensor: NativeTensor
}

export function readSafetensors(path: string): Map<string, StoredTensor> {
  const bytes = readFileSync(path)
  const headerLength = Number(bytes.readBigUInt64LE(0))
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerLength)) as Record<
    string,
    { dtype: DType; shape: number[]; data_offsets: [number, number] }
  >
  delete header.__metadata__
  const file = new (addon().MappedFile)(path)
  return new Map(
    Object.entries(header).map(([name, { dtype, shape, data_offsets }]) => [
      name,
      { dtype, shape, tensor: file.tensor(dtype, shape, 8 + headerLength + data_offsets[0]) },
    ]),
  )
}
