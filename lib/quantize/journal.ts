/**
 * The journal of an unfinished run: a line for the run's identity, then a line for every shard that is whole on disk.
 * A killed run continues after its last line; the shard that was being written is written again.
 */
import { open, readdir, rm } from 'node:fs/promises'
import path from 'node:path'
import { SlimError } from '../errors.js'
import { hashFile, kindOf, makeFolder, readText, TEMPORARY_NAME, writeFileAtomic, writing } from '../files.js'
import type { LayerReport } from '../packed/manifest.js'
import { FolderLock } from './lock.js'
import type { BitMap } from './options.js'
import type { Seconds } from './seconds.js'

export interface JournalEntry {
  /** File name of the shard. */
  shard: string
  sha256: string
  /** Of the file, and of its tensors alone. */
  bytes: number
  tensorBytes: number
  tensors: string[]
  layers: LayerReport[]
  /** Of the first shard: the bits of groups that were allocated for the whole model. */
  allocation?: BitMap
  /** Wall-clock seconds that the shard took, and those of its phases. */
  elapsed: number
  seconds: Seconds
}

interface Header {
  journal: 'slimllm'
  identity: string
}

export class Journal {
  static readonly fileName = 'journal.jsonl'

  private constructor(
    readonly folder: string,
    readonly entries: JournalEntry[],
    private readonly lock: FolderLock,
  ) {}

  /** Opens the unfinished run in `folder`, or starts one there. `identity` is a hash of all that decides the bytes. */
  static async open(folder: string, identity: string, restart: boolean): Promise<Journal> {
    await makeFolder(folder)
    const lines = await readLines(path.join(folder, Journal.fileName))
    const header = lines[0] as Header | undefined
    await requireOurs(folder, header)
    const lock = await FolderLock.take(folder)
    try {
      // With no block done (only a header, and the shard of tables) and nothing allocated there is nothing to lose.
      const begun = lines.length > 2 || (lines[1] as JournalEntry | undefined)?.allocation !== undefined
      if (header && header.identity !== identity && begun && !restart)
        throw new SlimError(
          'SLIM_OUTPUT_MISMATCH',
          `${folder} holds an unfinished run with other settings or inputs`,
          {
            file: folder,
            remedy: 'Repeat the settings of that run to continue it, or discard it with restart (--restart)',
          },
        )
      const entries =
        restart || header?.identity !== identity
          ? []
          : await wholeShards(folder, lines.slice(1) as JournalEntry[])
      // Written anew: a torn last line, or lines after a damaged shard, go.
      const text = [{ journal: 'slimllm', identity }, ...entries]
        .map((line) => `${JSON.stringify(line)}\n`)
        .join('')
      await writeFileAtomic(path.join(folder, Journal.fileName), text)
      const journal = new Journal(folder, entries, lock)
      await journal.removeStrays()
      return journal
    } catch (error) {
      await lock.release()
      throw error
    }
  }

  /** What an unfinished run in `folder` has recorded; null where there is none. */
  static async read(folder: string): Promise<{ entries: JournalEntry[]; writer: number | null } | null> {
    const [header, ...entries] = await readLines(path.join(folder, Journal.fileName))
    if ((header as Header | undefined)?.journal !== 'slimllm') return null
    return { entries: entries as JournalEntry[], writer: await FolderLock.owner(folder) }
  }

  /** Records a shard that is whole on disk. */
  async append(entry: JournalEntry): Promise<void> {
    const file = path.join(this.folder, Journal.fileName)
    await writing(file, async () => {
      const handle = await open(file, 'a')
      try {
        await handle.writeFile(`${JSON.stringify(entry)}\n`)
        await handle.sync()
      } finally {
        await handle.close()
      }
    })
    this.entries.push(entry)
  }

  /** Lets another run continue this one. */
  close(): Promise<void> {
    return this.lock.release()
  }

  /** Removes what a killed run has left half-written. */
  private async removeStrays(): Promise<void> {
    const known = new Set([
      ...this.entries.map((entry) => entry.shard),
      Journal.fileName,
      FolderLock.fileName,
    ])
    await writing(this.folder, async () => {
      for (const name of await readdir(this.folder))
        if (!known.has(name)) await rm(path.join(this.folder, name), { recursive: true })
    })
  }
}

/** A folder that is not empty and has no journal of ours is somebody else's, whatever its name. */
async function requireOurs(folder: string, header: Header | undefined): Promise<void> {
  if (header?.journal === 'slimllm') return
  const names = await writing(folder, () => readdir(folder))
  const foreign = names.find((name) => !TEMPORARY_NAME.test(name) && name !== FolderLock.fileName)
  if (foreign !== undefined)
    throw new SlimError('SLIM_OUTPUT_EXISTS', `${folder} exists and is not an unfinished run of slimllm`, {
      file: folder,
      parameter: 'output',
      remedy: 'Choose another output, or move that folder away: a run keeps its unfinished work there',
    })
}

/** The entries up to the first whose shard is not as it was recorded. */
async function wholeShards(folder: string, entries: JournalEntry[]): Promise<JournalEntry[]> {
  const whole: JournalEntry[] = []
  for (const entry of entries) {
    const file = path.join(folder, entry.shard)
    if ((await kindOf(file)) !== 'file' || (await hashFile(file)) !== entry.sha256) break
    whole.push(entry)
  }
  return whole
}

/** Parsed lines up to the first that is torn; none if there is no file. */
async function readLines(file: string): Promise<unknown[]> {
  if ((await kindOf(file)) === null) return []
  const lines: unknown[] = []
  for (const line of (await readText(file)).split('\n').slice(0, -1)) {
    try {
      lines.push(JSON.parse(line))
    } catch {
      break
    }
  }
  return lines
}
