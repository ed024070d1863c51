/** Files that are either whole under their final name or not there at all, and file-system errors as SlimError. */
import { isUtf8 } from 'node:buffer'
import { createHash, type Hash, randomBytes } from 'node:crypto'
import {
  type FileHandle,
  mkdir,
  open,
  readdir,
  readFile as readWhole,
  rename,
  rm,
  stat,
} from 'node:fs/promises'
import path from 'node:path'
import { SlimError, type SlimErrorCode } from './errors.js'

/** One read of a stream: large enough that the system call does not count, small against a tensor. */
const CHUNK_BYTES = 8 * 2 ** 20

/** A node:fs error as a SlimError that says what was done to which file. Anything else is unchanged. */
function fileError(error: unknown, file: string, doing: 'read' | 'write'): unknown {
  const { syscall, message } = error as NodeJS.ErrnoException
  if (error instanceof SlimError || syscall === undefined) return SlimError.from(error, { file })
  const known = SlimError.from(error)
  const failed = doing === 'read' ? 'SLIM_FILE_UNREADABLE' : 'SLIM_FILE_UNWRITABLE'
  const named = known instanceof SlimError && known.code !== 'SLIM_FILE_UNREADABLE' ? known.code : failed
  const remedy = named === 'SLIM_NO_SPACE' ? 'Free some space, or write to another disk' : undefined
  return new SlimError(named, `Cannot ${doing} ${file}: ${message}`, { file, remedy, cause: error })
}

async function reading<T>(file: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action()
  } catch (error) {
    throw fileError(error, file, 'read')
  }
}

export async function writing<T>(file: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action()
  } catch (error) {
    throw fileError(error, file, 'write')
  }
}

export const readFile = (file: string): Promise<Buffer> => reading(file, () => readWhole(file))

/** The whole file as UTF-8 text; a byte order mark is kept, as other readers of model files keep it. */
export const readText = (file: string): Promise<string> => reading(file, () => readWhole(file, 'utf8'))

/** The same of a text that a model reads: bytes that are not UTF-8 would become replacement characters, silently. */
export async function readUtf8(file: string): Promise<string> {
  const bytes = await readFile(file)
  if (isUtf8(bytes)) return bytes.toString('utf8')
  throw new SlimError(
    'SLIM_TEXT_ENCODING',
    `${file} is not UTF-8 text: byte ${invalidByte(bytes)} is wrong`,
    {
      file,
      expected: 'UTF-8 text',
      remedy: 'Give a plain text file, or convert it (iconv -t UTF-8)',
    },
  )
}

/** Offset of the first byte that cannot follow those before it; the length where the text ends within a character. */
function invalidByte(bytes: Uint8Array): number {
  const isPrefix = (length: number) => {
    try {
      new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(0, length), { stream: true })
      return true
    } catch {
      return false
    }
  }
  let [valid, end] = [0, bytes.length + 1]
  while (valid + 1 < end) {
    const middle = (valid + end) >> 1
    if (isPrefix(middle)) valid = middle
    else end = middle
  }
  return valid
}

/** A file that holds one JSON object. */
export async function readJson(
  file: string,
  code: SlimErrorCode = 'SLIM_BAD_CONFIG',
): Promise<Record<string, unknown>> {
  return parseJsonObject(await readText(file), file, code)
}

export function parseJsonObject(text: string, file: string, code: SlimErrorCode): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new SlimError(code, `${file} is not valid JSON: ${(cause as Error).message}`, { file, cause })
  }
  if (isObject(value)) return value
  throw new SlimError(code, `${file} does not hold a JSON object`, { file, expected: 'a JSON object' })
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** What is at the path: null when nothing is. */
export async function kindOf(file: string): Promise<'file' | 'directory' | null> {
  try {
    return (await stat(file)).isDirectory() ? 'directory' : 'file'
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return null
    throw fileError(error, file, 'read')
  }
}

/** Runs `action` on the file opened for reading. */
export function withFile<T>(file: string, action: (handle: FileHandle) => Promise<T>): Promise<T> {
  return reading(file, async () => {
    const handle = await open(file, 'r')
    try {
      return await action(handle)
    } finally {
      await handle.close()
    }
  })
}

/** Bytes [offset, offset + length) of a file, chunk by chunk. */
export async function* readRange(file: string, offset: number, length: number): AsyncGenerator<Uint8Array> {
  const handle = await reading(file, () => open(file, 'r'))
  try {
    for (let done = 0; done < length; ) {
      const chunk = new Uint8Array(Math.min(CHUNK_BYTES, length - done))
      const { bytesRead } = await reading(file, () => handle.read(chunk, 0, chunk.length, offset + done))
      if (bytesRead === 0)
        throw new SlimError('SLIM_FILE_TRUNCATED', `${file} ends at byte ${offset + done}`, {
          file,
          expected: `bytes up to ${offset + length}`,
        })
      done += bytesRead
      yield chunk.subarray(0, bytesRead)
    }
  } finally {
    await handle.close()
  }
}

/** Adds the files' names and bytes to the hash, in the given order. */
export async function hashFiles(
  files: readonly string[],
  signal?: AbortSignal,
  hash: Hash = createHash('sha256'),
): Promise<Hash> {
  for (const file of files) {
    const { size } = await reading(file, () => stat(file))
    // Name and length first, so that moving bytes from one file to the next changes the hash.
    hash.update(`${path.basename(file)}\0${size}\0`)
    for await (const chunk of readRange(file, 0, size)) {
      if (signal?.aborted)
        throw new SlimError('SLIM_ABORTED', `Hashing ${file} was aborted`, { cause: signal.reason })
      hash.update(chunk)
    }
  }
  return hash
}

/** SHA-256 of a file's bytes, in hexadecimal. */
export async function hashFile(file: string): Promise<string> {
  const hash = createHash('sha256')
  const { size } = await reading(file, () => stat(file))
  for await (const chunk of readRange(file, 0, size)) hash.update(chunk)
  return hash.digest('hex')
}

export async function makeFolder(folder: string): Promise<void> {
  await writing(folder, () => mkdir(folder, { recursive: true }))
}

/** Makes a rename or a new entry in the directory survive a power failure. */
export async function syncDirectory(directory: string): Promise<void> {
  // Windows has no such call: opening a directory fails there.
  if (process.platform === 'win32') return
  const handle = await open(directory, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

const temporaryName = (file: string) => `${file}.partial-${randomBytes(6).toString('hex')}`
/** Names that a killed write leaves behind. */
export const TEMPORARY_NAME = /\.partial-[0-9a-f]{12}$/

/**
 * Runs `fill` on a new file beside `file`, then renames it to `file`. Until the rename nothing is visible under the
 * final name; a failure leaves the old file as it was and removes the temporary one.
 */
export function withAtomicFile<T>(file: string, fill: (handle: FileHandle) => Promise<T>): Promise<T> {
  return writing(file, async () => {
    const temporary = temporaryName(file)
    const handle = await open(temporary, 'wx')
    try {
      let result: T
      try {
        result = await fill(handle)
        await handle.sync()
      } finally {
        await handle.close()
      }
      await rename(temporary, file)
      await syncDirectory(path.dirname(file))
      return result
    } catch (error) {
      await rm(temporary, { force: true })
      throw error
    }
  })
}

export function writeFileAtomic(file: string, data: string | Uint8Array): Promise<void> {
  return withAtomicFile(file, (handle) => handle.writeFile(data))
}

/** Throws SLIM_OUTPUT_EXISTS unless nothing, or an empty folder, is at the path. */
export async function requireFreshFolder(folder: string): Promise<void> {
  const kind = await kindOf(folder)
  if (kind === null) return
  if (kind === 'directory' && (await reading(folder, () => readdir(folder))).length === 0) return
  throw new SlimError(
    'SLIM_OUTPUT_EXISTS',
    `The output folder ${folder} ${kind === 'file' ? 'is a file' : 'is not empty'}`,
    { file: folder, expected: 'a new or empty folder', remedy: 'Choose another path, or remove it first' },
  )
}

/**
 * Runs `fill` on a new folder beside `folder`, then renames it to `folder`, which must be new or empty. A failure
 * removes the temporary folder.
 */
export async function withAtomicFolder<T>(
  folder: string,
  fill: (directory: string) => Promise<T>,
): Promise<T> {
  const final = path.resolve(folder)
  await requireFreshFolder(final)
  return writing(final, async () => {
    await mkdir(path.dirname(final), { recursive: true })
    const temporary = temporaryName(final)
    await mkdir(temporary)
    try {
      const result = await fill(temporary)
      await syncDirectory(temporary)
      // Somebody may have filled the folder meanwhile; rename replaces an empty folder only.
      await requireFreshFolder(final)
      await rename(temporary, final)
      await syncDirectory(path.dirname(final))
      return result
    } catch (error) {
      await rm(temporary, { recursive: true, force: true })
      throw error
    }
  })
}
