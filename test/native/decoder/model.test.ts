import { tmpdir } from 'node:os'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import type { EmbeddingParts, FloatDType, NativeDecoderModel } from '../../../lib/native/addon.js'
import { addon, run } from '../../../lib/native/addon.js'
import {
  FAMILIES,
  FIXTURES,
  largestDifference,
  loadFixture,
  randomIds,
  randomTensor,
  readJson,
} from '../../support/decoder.js'
import { readSafetensors } from '../../support/safetensors.js'
import { logSoftmax, stepLogprobs } from '../../support/step.js'

interface Golden {
  input_ids: number[]
  positions: number[]
  logits: number[][]
  nll: number
}

const embed = (ids: Int32Array, length: number, parts: EmbeddingParts, spill: string | null = null) =>
  run(addon().embedTokens(ids, length, parts, spill, 2))
const mean = (values: Float32Array) => values.reduce((sum, value) => sum + value, 0) / values.length

async function errors(family: string, dtype: FloatDType) {
  const golden = readJson<Golden>(family, 'golden.json')
  const { model, spec } = await loadFixture(family, dtype)
  const ids = Int32Array.from(golden.input_ids)
  const logits = await run(model.logits(ids, 2))
  const nll = await run(model.tokenNll(ids, 2))
  expect(logits.length).toBe(ids.length * spec.vocabSize)
  expect(nll.length).toBe(ids.length - 1)
  const rows = golden.positions.map((p) => logits.subarray(p * spec.vocabSize, (p + 1) * spec.vocabSize))
  return {
    logits: Math.max(...rows.map((row, i) => largestDifference(row, golden.logits[i]!))),
    nll: Math.abs(mean(nll) - golden.nll),
  }
}

describe.each(FAMILIES)('%s against transformers', (family) => {
  // Largest measured over the families: F32 5e-6 and 4e-7, F16 1e-2 and 9e-4, BF16 7e-2 and 3.5e-3.
  it.each([
    ['F32', 2e-3, 1e-4],
    ['F16', 2e-2, 2e-3],
    ['BF16', 1.5e-1, 1e-2],
  ] as const)('weights in %s: logits within %f, mean NLL within %f', async (dtype, logits, nll) => {
    const error = await errors(family, dtype)
    expect(error.logits).toBeLessThan(logits)
    expect(error.nll).toBeLessThan(nll)
  })
})

describe.each(FAMILIES)('%s', (family) => {
  // Largest measured over the families: F32 5e-6, F16 4.4e-3, I8 9e-2.
  it.each([
    ['F32', 2e-5],
    ['F16', 1e-2],
    ['I8', 2e-1],
  ] as const)('steps through a cache of %s to what the full pass gives, within %f', async (dtype, bound) => {
    const { model, spec } = await loadFixture(family)
    const ids = randomIds(45, spec.vocabSize, 3)
    const expected = await run(model.logits(ids, 2))
    const cache = model.cache(48, dtype)
    let done = 0
    for (const count of [19, 1, 1, 7, 1, 16]) {
      const given = await stepLogprobs(model, cache, ids.subarray(done, done + count), spec.vocabSize)
      done += count
      expect(cache.length).toBe(done)
      const row = expected.subarray((done - 1) * spec.vocabSize, done * spec.vocabSize)
      expect(largestDifference(given, logSoftmax(row))).toBeLessThan(bound)
    }
  })

  it('gives the same bits with 1 and 2 threads', async () => {
    const { model, spec } = await loadFixture(family)
    const ids = randomIds(67, spec.vocabSize, 4)
    const one = await run(model.logits(ids, 1))
    const two = await run(model.logits(ids, 2))
    expect(Buffer.from(two.buffer).equals(Buffer.from(one.buffer))).toBe(true)
  })

  it('gives a batch of sequences what it gives each alone', async () => {
    const { embedding, blocks, spec } = await loadFixture(family)
    const [sequences, length] = [5, 33]
    const ids = randomIds(sequences * length, spec.vocabSize, 5)
    const batch = await embed(ids, length, embedding)
    for (const block of blocks) await run(block.forward(batch, { sequenceLength: length }, 2))
    const together = batch.toFloat32Array()
    for (let s = 0; s < sequences; s++) {
      const states = await embed(ids.subarray(s * length, (s + 1) * length), length, embedding)
      for (const block of blocks) await run(block.forward(states, { sequenceLength: length }, 2))
      const size = length * spec.hiddenSize
      const part = together.subarray(s * size, (s + 1) * size)
      expect(largestDifference(states.toFloat32Array(), part)).toBeLessThan(1e-5)
    }
  })
})

describe('compare', () => {
  it('is KL(reference ‖ model), the agreement of the likeliest tokens, and both NLLs', async () => {
    const { model: reference, spec } = await loadFixture('llama')
    const { model } = await loadFixture('llama3-rope')
    const vocab = spec.vocabSize
    const ids = randomIds(40, vocab, 6)
    const result = await run(model.compare(reference, ids, 2))
    const [q, p] = await Promise.all([model, reference].map((m) => run(m.logits(ids, 2))))
    for (let t = 0; t < ids.length - 1; t++) {
      const [qLogits, pLogits] = [q!, p!].map((logits) => logits.subarray(t * vocab, (t + 1) * vocab))
      const [qRow, pRow] = [logSoftmax(qLogits!), logSoftmax(pLogits!)]
      const kl = pRow.reduce((sum, logP, i) => sum + Math.exp(logP) * (logP - qRow[i]!), 0)
      expect(result.kl[t]).toBeCloseTo(kl, 5)
      expect(result.nll[t]).toBeCloseTo(-qRow[ids[t + 1]!]!, 5)
      expect(result.referenceNll[t]).toBeCloseTo(-pRow[ids[t + 1]!]!, 5)
      const agrees = qRow.indexOf(Math.max(...qRow)) === pRow.indexOf(Math.max(...pRow))
      expect(result.agrees[t]).toBe(Number(agrees))
    }
  })

  it('is 0 and full agreement for a model and itself', async () => {
    const { model, spec } = await loadFixture('qwen3')
    const { kl, agrees } = await run(model.compare(model, randomIds(20, spec.vocabSize, 7), 1))
    expect(Math.max(...kl)).toBeLessThan(1e-6)
    expect(Array.from(agrees)).toEqual(new Array(19).fill(1))
  })
})

describe('embed', () => {
  it('scales, adds positions, and can spill to a file', async () => {
    const { embedding: parts, spec } = await loadFixture('opt')
    const stored = readSafetensors(path.join(FIXTURES, 'opt', 'model.safetensors'))
    const values = (name: string) => stored[`${name}.weight`]!.toFloat32Array()
    const [embedding, positions] = [values(spec.embedding.name), values(spec.positions!.name)]
    const ids = randomIds(6, spec.vocabSize, 2)
    const expected = Array.from(ids).flatMap((id, t) =>
      Array.from({ length: 64 }, (_, i) =>
        Math.fround(embedding[id * 64 + i]! + positions[((t % 3) + 2) * 64 + i]!),
      ),
    )
    for (const spill of [null, tmpdir()])
      expect(Array.from((await embed(ids, 3, parts, spill)).toFloat32Array())).toEqual(expected)
  })
})

describe('packed embeddings and head', () => {
  it('give what their dequantized matrices give', async () => {
    const { blocks, spec } = await loadFixture('llama')
    const { DecoderModel, fitGroups } = addon()
    const matrix = randomTensor([spec.vocabSize, spec.hiddenSize], 1)
    const packed = await run(
      fitGroups(matrix, Uint8Array.of(4, 2), { groupSize: 32, quantizer: 'minmax' }, 1),
    )
    const dense = await run(packed.dequantize(1))
    const [one, other] = [packed, dense].map(
      (m) => new DecoderModel({ embedding: m, embeddingScale: 1, blocks, head: m, logitSoftcap: 0 }),
    )
    const ids = randomIds(30, spec.vocabSize, 2)
    const [a, b] = await Promise.all([run(one!.logits(ids, 2)), run(other!.logits(ids, 2))])
    expect(largestDifference(a, b)).toBeLessThan(1e-5)
  })
})

describe('bad input', () => {
  const rejects = async (job: Promise<unknown>, message: RegExp) =>
    expect(job).rejects.toMatchObject({
      code: 'SLIM_INVALID_ARGUMENT',
      message: expect.stringMatching(message),
    })
  const load = async (): Promise<NativeDecoderModel> => (await loadFixture('llama')).model

  it('names a token id out of range', async () => {
    const model = await load()
    await rejects(
      run(model.logits(Int32Array.of(1, 256, 3), 1)),
      /ids\[1\].*below 256.*256|below 256 for ids\[1\]/,
    )
    await rejects(run(model.tokenNll(Int32Array.of(1, 2, -1), 1)), /ids\[2\]/)
    const { embedding } = await loadFixture('llama')
    await rejects(embed(Int32Array.of(999), 1, embedding), /ids\[0\]/)
  })

  it('wants two tokens for a likelihood and whole sequences', async () => {
    const model = await load()
    await rejects(run(model.tokenNll(Int32Array.of(1), 1)), /at least 2 token ids for ids/)
    const { embedding } = await loadFixture('llama')
    const odd = embed(Int32Array.of(1, 2, 3), 2, embedding)
    await rejects(odd, /divisor of the 3 token ids for sequenceLength/)
  })

  it('says when learned positions run out', async () => {
    const { embedding } = await loadFixture('opt')
    const ids = new Int32Array(257)
    await rejects(embed(ids, 257, embedding), /at most the model's 256 positions/)
    expect((await embed(ids.subarray(0, 256), 256, embedding)).shape).toEqual([256, 64])
  })

  it('stops when it is aborted', async () => {
    const model = await load()
    const job = model.tokenNll(randomIds(8000, 256, 1), 1) // eight tiles
    job.cancel()
    await expect(run(job)).rejects.toMatchObject({ code: 'SLIM_ABORTED' })
  })

  it('refuses parts that do not fit', async () => {
    const { blocks } = await loadFixture('llama')
    const { DecoderModel, tensorFrom } = addon()
    const matrix = (rows: number, cols: number) =>
      tensorFrom(new Float32Array(rows * cols), 'F32', [rows, cols])
    const parts = {
      embedding: matrix(8, 64),
      embeddingScale: 1,
      blocks,
      head: matrix(8, 64),
      logitSoftcap: 0,
    }
    expect(() => new DecoderModel(parts)).not.toThrow()
    expect(() => new DecoderModel({ ...parts, head: matrix(9, 64) })).toThrow(
      /\[8, 64\] for head .* \[9, 64\]/,
    )
    expect(() => new DecoderModel({ ...parts, embedding: matrix(8, 32) })).toThrow(/for embedding/)
    expect(() => new DecoderModel({ ...parts, blocks: [] })).toThrow(/at least one block/)
    blocks[1]!.dispose()
    expect(() => new DecoderModel({ ...parts, blocks })).toThrow(
      /blocks\[1\].*not disposed|not disposed for blocks\[1\]/,
    )
  })

  it('is disposed once and says so afterwards', async () => {
    const model = await load()
    model.dispose()
    model.dispose()
    expect(() => model.logits(Int32Array.of(1), 1)).toThrow(
      expect.objectContaining({ code: 'SLIM_DISPOSED' }),
    )
  })
})
