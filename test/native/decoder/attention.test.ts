import { beforeAll, describe, expect, it } from 'vitest'
import { addon, run } from '../../../lib/native/addon.js'
import { largestDifference, randomFloats } from '../../support/decoder.js'

interface Case {
  tokens: number
  past?: number
  heads?: number
  kvHeads?: number
  headDim?: number
  window?: number
  softcap?: number
  scale?: number
}

/** softmax(scale · q·k, capped, causal, windowed) v in float64, by its definition. */
function reference(q: Float32Array, k: Float32Array, v: Float32Array, c: Required<Case>): Float64Array {
  const out = new Float64Array(q.length)
  for (let t = 0; t < c.tokens; t++)
    for (let h = 0; h < c.heads; h++) {
      const kvHead = Math.floor(h / (c.heads / c.kvHeads))
      const position = c.past + t
      const first = c.window ? Math.max(0, position - c.window + 1) : 0
      const query = (t * c.heads + h) * c.headDim
      const key = (p: number) => (p * c.kvHeads + kvHead) * c.headDim
      const scores: number[] = []
      for (let p = first; p <= position; p++) {
        let score = 0
        for (let d = 0; d < c.headDim; d++) score += q[query + d]! * k[key(p) + d]!
        score *= c.scale
        scores.push(c.softcap ? c.softcap * Math.tanh(score / c.softcap) : score)
      }
      const highest = Math.max(...scores)
      const weights = scores.map((score) => Math.exp(score - highest))
      const sum = weights.reduce((a, b) => a + b)
      weights.forEach((weight, i) => {
        for (let d = 0; d < c.headDim; d++) out[query + d]! += (weight / sum) * v[key(first + i) + d]!
      })
    }
  return out
}

async function attend(given: Case, threads: number) {
  const c = { past: 0, heads: 2, kvHeads: 2, headDim: 16, window: 0, softcap: 0, scale: 0.25, ...given }
  const { attention, tensorFrom } = addon()
  const q = randomFloats(c.tokens * c.heads * c.headDim, 1, 3)
  const [k, v] = [2, 3].map((seed) => randomFloats((c.past + c.tokens) * c.kvHeads * c.headDim, seed, 3))
  const shape = [c.past + c.tokens, c.kvHeads, c.headDim]
  const out = await run(
    attention(
      tensorFrom(q, 'F32', [c.tokens, c.heads, c.headDim]),
      tensorFrom(k!, 'F32', shape),
      tensorFrom(v!, 'F32', shape),
      { scale: c.scale, softcap: c.softcap, window: c.window },
      threads,
    ),
  )
  return { out, expected: reference(q, k!, v!, c) }
}

describe.each(addon().instructionSets())('attention with %s', (instructionSet) => {
  beforeAll(() => addon().setInstructionSet(instructionSet))

  const check = async (c: Case, bound = 1e-5) => {
    const { out, expected } = await attend(c, 2)
    expect(largestDifference(out, expected), JSON.stringify(c)).toBeLessThan(bound)
  }

  it('agrees with float64 for 1 to 67 tokens', async () => {
    for (let tokens = 1; tokens <= 67; tokens++) await check({ tokens })
  })

  it.each([1, 3, 8, 20, 33, 64, 80, 128])('agrees for heads of %i', async (headDim) => {
    await check({ tokens: 37, headDim, scale: headDim ** -0.5 })
  })

  it('agrees for grouped queries', async () => {
    await check({ tokens: 35, heads: 9, kvHeads: 3, headDim: 24 })
    await check({ tokens: 18, heads: 5, kvHeads: 1 })
  })

  it.each([1, 2, 15, 16, 17, 40, 129, 500])('agrees for a window of %i', async (window) => {
    await check({ tokens: 61, window })
    await check({ tokens: 300, heads: 1, kvHeads: 1, window })
  })

  it('agrees with softcapped scores', async () => {
    await check({ tokens: 50, softcap: 2.5 })
    await check({ tokens: 50, softcap: 50, window: 9, heads: 4 })
  })

  it('agrees after a past of any length, beyond one tile of keys', async () => {
    for (const past of [1, 15, 16, 17, 127, 128, 129, 260]) {
      await check({ tokens: 1, past })
      await check({ tokens: 5, past, window: 20 })
    }
    await check({ tokens: 290, past: 131, heads: 4, kvHeads: 2, headDim: 12 })
  })

  it('survives scores far apart', async () => {
    // Scores reach ±2000, where float32 numbers lie 1.2e-4 apart.
    await check({ tokens: 200, heads: 1, kvHeads: 1, scale: 40 }, 5e-4)
  })

  it('gives the same bits with 1 and 3 threads', async () => {
    const c = { tokens: 150, heads: 6, kvHeads: 2, window: 70 }
    const [one, three] = [await attend(c, 1), await attend(c, 3)]
    expect(largestDifference(one.out, three.out)).toBe(0)
  })
})
