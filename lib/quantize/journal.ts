/**
 * The journal of an unfinished run: a line for the run's identity, then a line for every shard that is whole on disk.
 * A killed run continues after its last line; the shard that was being written is written again.
 */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, open, readdir, readFile, rm } from 'node:fs/promises'
import path from 'node:path'
import { pipeline } from 'node:stream/promises'
import { SlimError } from '../errors.js'
import type { LayerReport, Timing } from '../packed/manifest.js'

export interface JournalEntry {
  /** File name of the shard. */
  shard: string
  sha256: string
  bytes: number
  tensors: string[]
  layers: LayerReport[]
  seconds: Omit<Timing, 'total'>
}

export class Journal {
  private constructor(
    readonly folder: string,
    readonly entries: JournalEntry[],
  ) {}

  private get file(): string {
    return path.join(this.folder, Journal.fileName)
  }

  static readonly fileName = 'journal.jsonl'

  /** Opens the unfinished run in `folder`, or starts one there. `identity` is a hash of all that decides the bytes. */
  static async open(folder: string, identity: string, restart: boolean): Promise<Journal> {
    if (restart) await rm(folder, { recursive: true, force: true })
    const lines = await readLines(path.join(folder, Journal.fileName))
    const header = lines.shift() as { identity: string } | undefined
    if (header && header.identity !== identity)
      throw new SlimError(
        'SLIM_OUTPUT_MISMATCH',
        `${folder} holds an unfinished run with other settings or inputs`,
        {
          file: folder,
          remedy: 'Repeat the settings of that run to continue it, or discard it with restart (--restart)',
        },
      )
    const entries: JournalEntry[] = []
    for (const entry of lines as JournalEntry[]) {
      if ((await fileSha256(path.join(folder, entry.shard))) !== entry.sha256) break
      entries.push(entry)
    }
    const journal = new Journal(folder, entries)
    await mkdir(folder, { recursive: true })
    await journal.removeStrays()
    // Written anew: a torn last line, or lines after a damaged shard, go.
    const text = [{ identity }, ...entries].map((line) => `${JSON.stringify(line)}\n`).join('')
    await writeDurably(journal.file, 'w', text)
    return journal
  }

  /** Removes what a killed run has left half-written. */
  private async removeStrays(): Promise<void> {
    const known = new Set(this.entries.map((entry) => entry.shard))
    for (const name of await readdir(this.folder))
      if (!known.has(name) && name !== Journal.fileName)
        await rm(path.join(this.folder, name), { recursive: true })
  }

  /** Records a shard that is whole on disk. */
  async append(entry: JournalEntry): Promise<void> {
    this.entries.push(entry)
    await writeDurably(this.file, 'a', `${JSON.stringify(entry)}\n`)
  }

  /** Removes the journal from the finished folder; until then nothing of the run can be lost. */
  async remove(folder: string): Promise<void> {
    await rm(path.join(folder, Journal.fileName))
  }
}

/** Parsed lines up to the first that is torn; none if there is no file. */
async function readLines(file: string): Promise<unknown[]> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw SlimError.from(error, { file })
  }
  const lines: unknown[] = []
  for (const line of text.split('\n').slice(0, -1)) {
    try {
      lines.push(JSON.parse(line))
    } catch {
      break
    }
  }
  return lines
}

async function writeDurably(file: string, flags: 'w' | 'a', text: string): Promise<void> {
  try {
    const handle = await open(file, flags)
    try {
      await handle.writeFile(text)
      await handle.sync()
    } finally {
      await handle.close()
    }
  } catch (error) {
    throw SlimError.from(error, { file })
  }
}

/** SHA-256 of a file, or null when it is not there. */
export async function fileSha256(file: string): Promise<string | null> {
  const hash = createHash('sha256')
  try {
    await pipeline(createReadStream(file), hash)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw SlimError.from(error, { file })
  }
  return hash.digest('hex')
}
