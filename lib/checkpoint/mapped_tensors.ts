/** The mapped files of a checkpoint, opened when the first of their tensors is asked for. */
import { SlimError } from '../errors.js'
import { addon, type DType, type NativeMappedFile, type NativeTensor } from '../native/addon.js'
import type { TensorInfo } from './tensor_info.js'

const ELEMENT_BYTES: Partial<Record<DType, number>> = { F32: 4, I32: 4, F16: 2, BF16: 2 }

export class MappedTensors {
  private readonly files = new Map<string, NativeMappedFile>()
  private disposed = false

  /** The stored tensor: a view, or a copy when its bytes are not aligned to its elements. */
  view(info: TensorInfo): NativeTensor {
    const dtype = info.storedDtype as DType
    try {
      const file = this.file(info.file)
      if (info.byteOffset % (ELEMENT_BYTES[dtype] ?? 1) === 0)
        return file.tensor(dtype, info.shape, info.byteOffset)
      const bytes = file.tensor('U8', [info.byteLength], info.byteOffset)
      try {
        return addon().tensorFrom(bytes.toBytes(), dtype, info.shape)
      } finally {
        bytes.dispose()
      }
    } catch (error) {
      throw SlimError.from(error, { file: info.file, tensor: info.name })
    }
  }

  private file(path: string): NativeMappedFile {
    if (this.disposed)
      throw new SlimError('SLIM_DISPOSED', `The checkpoint of ${path} is disposed`, { file: path })
    let file = this.files.get(path)
    if (!file) {
      file = new (addon().MappedFile)(path)
      this.files.set(path, file)
    }
    return file
  }

  dispose(): void {
    this.disposed = true
    for (const file of this.files.values()) file.dispose()
    this.files.clear()
  }
}

/** The entry of that name, or SLIM_TENSOR_MISSING. */
export function requireInfo(
  tensors: ReadonlyMap<string, TensorInfo>,
  name: string,
  location: string,
): TensorInfo {
  const info = tensors.get(name)
  if (info) return info
  throw new SlimError('SLIM_TENSOR_MISSING', `There is no tensor ${name} in ${location}`, {
    file: location,
    tensor: name,
    remedy: 'The checkpoint is incomplete, or config.json belongs to another model',
  })
}
