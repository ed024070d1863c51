/** The demo model and small settings for tests that run the whole pipeline. */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import type { QuantizeOptions } from '../../lib/index.js'
import { demo } from './models.js'

export { demo }

export const calibrationFile = path.join(demo, 'calibration.txt')
export const heldoutFile = path.join(demo, 'heldout.txt')

/** Small enough for a test of a second. */
export const smallCalibration = { file: calibrationFile, samples: 8, seqLen: 64, seed: 0 }

export function small(output: string, options: Partial<QuantizeOptions> = {}): QuantizeOptions {
  return {
    output,
    bits: 2,
    groupSize: 32,
    method: 'slim-paper',
    calibration: smallCalibration,
    threads: 2,
    ...options,
  }
}

/** SHA-256 of every file of a packed folder; slimllm.json without its seconds. */
export function contentHashes(folder: string): Record<string, string> {
  return Object.fromEntries(
    readdirSync(folder)
      .sort()
      .map((name) => {
        let data: string | Buffer = readFileSync(path.join(folder, name))
        if (name === 'slimllm.json') data = JSON.stringify({ ...JSON.parse(data.toString()), seconds: null })
        return [name, createHash('sha256').update(data).digest('hex')]
      }),
  )
}

/** The error that a promise rejects with. */
export async function rejection(promise: Promise<unknown>): Promise<Error & { code?: string }> {
  try {
    await promise
  } catch (error) {
    return error as Error
  }
  throw new Error('Expected a rejection')
}
