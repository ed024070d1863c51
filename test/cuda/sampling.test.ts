/** Tokens drawn on the device against those of the float64 reference, with the same random numbers. */
import { afterAll, describe, expect, it } from 'vitest'
import { addon, run, type SamplerOptions } from '../../lib/native/addon.js'
import { hasEmulator, loadOnDevice, openEmulated } from '../support/cuda.js'
import { loadFixture, randomFloats, randomIds } from '../support/decoder.js'
import { ReferenceSampler } from '../support/sampler.js'
import { logSoftmax, makeSampler } from '../support/step.js'

const skip = !hasEmulator()
const emulated = skip ? null : openEmulated()
afterAll(() => emulated?.close())

const NONE = Number.NEGATIVE_INFINITY

/** Logits as models give them: a few tokens stand out. */
const randomLogits = (vocab: number, seed: number) => randomFloats(vocab, seed, 1.6).map((x) => x ** 5)

function tensorOf(rows: readonly Float32Array[]) {
  const vocab = rows[0]!.length
  const values = new Float32Array(rows.length * vocab)
  for (const [i, row] of rows.entries()) values.set(row, i * vocab)
  return addon().tensorFrom('F32', [rows.length, vocab], new Uint8Array(values.buffer))
}

/** One token of every row, drawn by samplers of their own. */
async function sampleRows(rows: readonly Float32Array[], options: readonly SamplerOptions[]) {
  const samplers = options.map(makeSampler)
  const tokens = await run(emulated!.device.sample(tensorOf(rows), samplers))
  for (const sampler of samplers) sampler.dispose()
  return tokens
}
