/**
 * Writes a packed folder shard by shard, beside its final name; finish() gives it that name. docs/format.md says
 * what is in it.
 */
import { readdir, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { type AuxiliaryFile, type Checkpoint, openCheckpoint } from '../checkpoint/checkpoint.js'
import { INDEX_FILE, shardIndex, shardName } from '../checkpoint/huggingface.js'
import { safetensorsBytes } from '../checkpoint/safetensors.js'
import { type SafetensorsEntry, writeSafetensors } from '../checkpoint/safetensors_writer.js'
import { SlimError } from '../errors.js'
import { hashFile, kindOf, readJson, syncDirectory, writeFileAtomic, writing } from '../files.js'
import { Journal, type JournalEntry } from '../quantize/journal.js'
import type { Manifest } from './manifest.js'

export interface WriterOptions {
  /** Hash of all that decides the bytes: an unfinished run continues only with the same. */
  identity: string
  restart: boolean
  shards: number
}

export class PackedFolderWriter {
  private constructor(
    private readonly output: string,
    private readonly journal: Journal,
    private readonly shards: number,
  ) {}

  /** `output` is an absolute path that checkOutput() has found free. */
  static async open(output: string, options: WriterOptions): Promise<PackedFolderWriter> {
    const journal = await Journal.open(`${output}.partial`, options.identity, options.restart)
    return new PackedFolderWriter(output, journal, options.shards)
  }

  /** Shards that are whole on disk, of this run and of one that it continues. */
  get done(): readonly JournalEntry[] {
    return this.journal.entries
  }

  /** Where the shards lie until finish(). */
  get folder(): string {
    return this.journal.folder
  }

  /** Writes the next shard and records it. */
  async writeShard(
    entries: SafetensorsEntry[],
    report: Pick<JournalEntry, 'layers' | 'allocation' | 'seconds' | 'elapsed'>,
  ): Promise<void> {
    const shard = shardName(this.done.length, this.shards)
    const file = path.join(this.folder, shard)
    await writeSafetensors(file, entries, { format: 'pt' })
    await this.journal.append({
      shard,
      sha256: await hashFile(file),
      bytes: (await stat(file)).size,
      tensorBytes: entries.reduce((sum, { dtype, shape }) => sum + safetensorsBytes(dtype, shape), 0),
      tensors: entries.map((tensor) => tensor.name),
      ...report,
    })
  }

  /** The shards written so far, as a checkpoint with this configuration. */
  async openDone(config: Record<string, unknown>): Promise<Checkpoint> {
    await this.writeConfig(config)
    return openCheckpoint(this.folder)
  }

  /** Writes the configuration, the copied files and the manifest, and gives the folder its name. */
  async finish(
    config: Record<string, unknown>,
    manifest: Manifest,
    auxiliary: readonly AuxiliaryFile[],
  ): Promise<void> {
    await this.writeConfig(config)
    for (const { name, bytes } of auxiliary) await this.write(name, bytes)
    await this.write('slimllm.json', json(manifest))
    await this.journal.close()
    await writing(this.output, async () => {
      const replaced = await moveAside(this.output)
      try {
        await rename(this.folder, this.output)
      } catch (error) {
        if (replaced) await rename(replaced, this.output)
        throw error
      }
      await syncDirectory(path.dirname(this.output))
    })
    await settle(this.output)
  }

  /** Lets another run continue this one. */
  close(): Promise<void> {
    return this.journal.close()
  }

  private async writeConfig(config: Record<string, unknown>): Promise<void> {
    await this.write(INDEX_FILE, json(shardIndex(this.done)))
    await this.write('config.json', json(config))
  }

  private write(name: string, data: string | Uint8Array): Promise<void> {
    return writeFileAtomic(path.join(this.folder, name), data)
  }
}

/**
 * Throws SLIM_OUTPUT_EXISTS unless nothing is at `output` (an absolute path), or an empty folder, or a finished
 * slimllm folder that may be replaced. First puts right what a run that was killed while finishing has left.
 */
export async function checkOutput(output: string, overwrite: boolean): Promise<void> {
  await settle(output)
  if (!(await isOccupied(output))) return
  const details = { file: output, parameter: 'output' }
  if (!(await isOurs(output)))
    throw new SlimError('SLIM_OUTPUT_EXISTS', `${output} exists and is not a folder that slimllm made`, {
      ...details,
      remedy: 'Choose another output',
    })
  if (!overwrite)
    throw new SlimError('SLIM_OUTPUT_EXISTS', `${output} holds a finished quantization`, {
      ...details,
      remedy: 'Choose another output, or replace it with overwrite (--overwrite)',
    })
}

/** Where the folder that is being replaced stays until its successor is in place. */
const asideName = (output: string) => `${output}.replaced`

/** Moves a folder of ours aside; an empty folder can stay, as rename() replaces it. */
async function moveAside(output: string): Promise<string | null> {
  if (!(await isOccupied(output))) return null
  await rename(output, asideName(output))
  return asideName(output)
}

/** Completes a finish that was killed: a folder moved aside comes back or goes, the journal leaves the result. */
async function settle(output: string): Promise<void> {
  const aside = asideName(output)
  await writing(output, async () => {
    if (await isOurs(aside)) {
      if (await isOccupied(output)) await rm(aside, { recursive: true })
      else await rename(aside, output)
    }
    if (await isOurs(output)) await rm(path.join(output, Journal.fileName), { force: true })
  })
}

async function isOccupied(folder: string): Promise<boolean> {
  const kind = await kindOf(folder)
  return kind === 'file' || (kind === 'directory' && (await readdir(folder)).length > 0)
}

async function isOurs(folder: string): Promise<boolean> {
  const manifest = path.join(folder, 'slimllm.json')
  if ((await kindOf(manifest)) !== 'file') return false
  try {
    return (await readJson(manifest)).format === 'slimllm'
  } catch {
    return false
  }
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`
}
