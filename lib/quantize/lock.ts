/** One run at a time in a folder: a lock file with the process's id; a dead process's lock does not count. */
import { open, rm } from 'node:fs/promises'
import path from 'node:path'
import { SlimError } from '../errors.js'
import { kindOf, readText, writing } from '../files.js'

/** Locks that this process holds: an id alone cannot tell them from those of an earlier process of the same id. */
const held = new Set<string>()

export class FolderLock {
  static readonly fileName = 'lock'

  private constructor(private readonly file: string) {}

  static async take(folder: string): Promise<FolderLock> {
    const file = path.join(folder, FolderLock.fileName)
    const owner = await FolderLock.owner(folder)
    if (owner !== null)
      throw new SlimError('SLIM_OUTPUT_EXISTS', `${folder} is being written by process ${owner}`, {
        file: folder,
        parameter: 'output',
        remedy: `Wait for that run, or choose another output; if no such run is there, remove ${file}`,
      })
    held.add(file)
    await writing(file, async () => {
      const handle = await open(file, 'w')
      await handle.writeFile(String(process.pid))
      await handle.close()
    })
    return new FolderLock(file)
  }

  /** The process that holds the folder's lock; null where none does. */
  static async owner(folder: string): Promise<number | null> {
    const file = path.join(folder, FolderLock.fileName)
    if (held.has(file)) return process.pid
    const owner = (await kindOf(file)) === 'file' ? Number(await readText(file)) : null
    return owner !== null && owner !== process.pid && isAlive(owner) ? owner : null
  }

  async release(): Promise<void> {
    await writing(this.file, () => rm(this.file, { force: true }))
    held.delete(this.file)
  }
}

function isAlive(pid: number): boolean {
  if (!Number.isInteger(pid) || pid <= 0) return false
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
