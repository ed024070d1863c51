/**
 * Writes a packed folder shard by shard, beside its final name; finish() gives it that name. docs/format.md says
 * what is in it.
 */
import { readFile, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { type AuxiliaryFile, type Checkpoint, openCheckpoint } from '../checkpoint/checkpoint.js'
import { INDEX_FILE } from '../checkpoint/huggingface.js'
import { type SafetensorsEntry, writeSafetensors } from '../checkpoint/safetensors_writer.js'
import { SlimError } from '../errors.js'
import { kindOf, syncDirectory, writeFileAtomic } from '../files.js'
import { fileSha256, Journal, type JournalEntry } from '../quantize/journal.js'
import type { Manifest } from './manifest.js'

export interface WriterOptions {
  /** Hash of all that decides the bytes: an unfinished run continues only with the same. */
  identity: string
  overwrite: boolean
  restart: boolean
  shards: number
}

export class PackedFolderWriter {
  private constructor(
    readonly output: string,
    private readonly journal: Journal,
    private readonly shards: number,
  ) {}

  static async open(output: string, options: WriterOptions): Promise<PackedFolderWriter> {
    await checkOutput(output, options.overwrite)
    const journal = await Journal.open(`${output}.partial`, options.identity, options.restart)
    return new PackedFolderWriter(output, journal, options.shards)
  }

  /** Shards that an earlier run has finished, in order. */
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
    report: Pick<JournalEntry, 'layers' | 'seconds'>,
  ): Promise<JournalEntry> {
    const number = String(this.done.length + 1).padStart(5, '0')
    const shard = `model-${number}-of-${String(this.shards).padStart(5, '0')}.safetensors`
    const file = path.join(this.folder, shard)
    await writeSafetensors(file, entries, { format: 'pt' })
    const sha256 = (await fileSha256(file)) as string
    const { size: bytes } = await stat(file)
    const entry = { shard, sha256, bytes, tensors: entries.map((tensor) => tensor.name), ...report }
    await this.journal.append(entry)
    return entry
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
    const replaced = `${this.output}.replaced`
    const hadOutput = (await kindOf(this.output)) !== null
    try {
      if (hadOutput) await rename(this.output, replaced)
      await rename(this.folder, this.output)
      await this.journal.remove(this.output)
      await syncDirectory(path.dirname(path.resolve(this.output)))
      if (hadOutput) await rm(replaced, { recursive: true })
    } catch (error) {
      throw SlimError.from(error, { file: this.output })
    }
  }

  private async writeConfig(config: Record<string, unknown>): Promise<void> {
    const index = {
      metadata: { total_size: this.done.reduce((sum, entry) => sum + entry.bytes, 0) },
      weight_map: Object.fromEntries(
        this.done.flatMap(({ shard, tensors }) => tensors.map((name) => [name, shard])),
      ),
    }
    await this.write(INDEX_FILE, json(index))
    await this.write('config.json', json(config))
  }

  private write(name: string, data: string | Uint8Array): Promise<void> {
    return writeFileAtomic(path.join(this.folder, name), data)
  }
}

/** The output must be new, or a finished slimllm folder that may be replaced. */
async function checkOutput(output: string, overwrite: boolean): Promise<void> {
  if ((await kindOf(output)) === null) return
  const details = { file: output, parameter: 'output' }
  let ours = false
  try {
    ours = JSON.parse(await readFile(path.join(output, 'slimllm.json'), 'utf8')).format === 'slimllm'
  } catch {
    // No manifest, or not one of ours.
  }
  if (!ours)
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

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`
}
