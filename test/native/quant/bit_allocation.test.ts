import { afterEach, describe, expect, it } from 'vitest'
import { addon, run } from '../../../lib/native/addon.js'
import { productTransposed } from '../../support/linear.js'
import { normals } from '../../support/random.js'
import { divergence, fitMinMax, quantizeValue } from '../../support/reference.js'

const native = addon()
const best = native.instructionSet()
afterEach(() => native.setInstructionSet(best))

interface Layer {
  rows: number
  cols: number
  groupSize: number
  tokens: number
  bits: number
  w: Float32Array
  x: Float32Array
  salience: Float64Array
}

function randomLayer(rows: number, cols: number, groupSize: number, tokens: number, bits: number): Layer {
  const groups = Math.ceil(cols / groupSize)
  return {
    ...{ rows, cols, groupSize, tokens, bits },
    w: normals(1, rows * cols).map((v) => v * 0.2),
    x: normals(2, tokens * cols),
    salience: Float64Array.from(normals(3, groups), Math.abs),
  }
}

/** Candidate by candidate from scratch, in float64. */
function reference({ rows, cols, groupSize, tokens, bits, w, x, salience }: Layer) {
  const n = salience.length
  const order = [...salience.keys()].sort((a, b) => salience[a]! - salience[b]! || a - b)
  const widths = (i: number) => {
    const map = new Uint8Array(n).fill(bits)
    for (let k = 0; k < i; k++) {
      map[order[k]!] = bits - 1
      map[order[n - 1 - k]!] = bits + 1
    }
    return map
  }
  const original = productTransposed(x, w, tokens, rows, cols)
  const token = (y: Float64Array, t: number) => Array.from(y.subarray(t * rows, (t + 1) * rows))
  const kl: number[] = []
  for (let i = 1; i < Math.floor(n / 2); i++) {
    const map = widths(i)
    const q = new Float64Array(w.length)
    for (let r = 0; r < rows; r++)
      map.forEach((width, g) => {
        const row = w.subarray(r * cols + g * groupSize, r * cols + Math.min(cols, (g + 1) * groupSize))
        const fit = fitMinMax(row, width)
        row.forEach((v, j) => {
          q[r * cols + g * groupSize + j] = quantizeValue(v, width, fit).value
        })
      })
    const outputs = productTransposed(x, q, tokens, rows, cols)
    let sum = 0
    for (let t = 0; t < tokens; t++) sum += divergence(token(outputs, t), token(original, t))
    kl.push(sum)
  }
  return { kl, groupBits: widths(kl.indexOf(Math.min(...kl)) + 1) }
}

function allocate(layer: Layer, sequences = 1, threads = 2) {
  const weight = native.tensorFrom(layer.w, 'F32', [layer.rows, layer.cols])
  const samples = native.tensorFrom(layer.x, 'F32', [layer.tokens, layer.cols])
  const { bits, groupSize } = layer
  return run(native.allocateBits(weight, samples, layer.salience, { bits, groupSize, sequences }, threads))
}

describe('allocateBits', () => {
  describe.each(native.instructionSets())('with %s', (set) => {
    it.each([
      [1, 64, 16, 3, 2],
      [5, 64, 16, 1, 3],
      [37, 200, 24, 29, 2],
      [37, 203, 20, 29, 7],
      [16, 120, 10, 600, 4],
      [100, 77, 7, 33, 2],
    ])(
      'agrees with the search from scratch: %i rows, %i columns, groups of %i, %i tokens, %i bits',
      async (...shape) => {
        native.setInstructionSet(set)
        const layer = randomLayer(...shape)
        const expected = reference(layer)
        const { kl, groupBits } = await allocate(layer, 4)
        expect(groupBits).toEqual(expected.groupBits)
        expect(kl.length).toBe(expected.kl.length)
        // The difference of two near-equal logarithms: an absolute error of float32's logits, times tokens.
        kl.forEach((value, i) => {
          expect(Math.abs(4 * value - expected.kl[i]!)).toBeLessThan(
            1e-4 * Math.abs(expected.kl[i]!) + 2e-6 * layer.tokens,
          )
        })
      },
    )

    it('clamps probabilities at 1e-6', async () => {
      native.setInstructionSet(set)
      const layer = randomLayer(19, 64, 16, 21, 2)
      layer.w = layer.w.map((v) => v * 100) // logits of hundreds
      const expected = reference(layer)
      const { kl } = await allocate(layer)
      expect(Math.abs(kl[0]! / expected.kl[0]! - 1)).toBeLessThan(1e-3)
    })
  })

  it('keeps the mean, and gives all groups the target below four groups and at 1 and 8 bits', async () => {
    const { groupBits } = await allocate(randomLayer(20, 256, 16, 40, 3))
    expect(groupBits.reduce((a, b) => a + b) / groupBits.length).toBe(3)
    for (const layer of [
      randomLayer(4, 48, 16, 5, 2),
      randomLayer(4, 128, 16, 5, 1),
      randomLayer(4, 128, 16, 5, 8),
    ]) {
      const { groupBits, kl } = await allocate(layer)
      expect(groupBits).toEqual(new Uint8Array(layer.salience.length).fill(layer.bits))
      expect(kl.length).toBe(0)
    }
  })

  it('takes groups of equal salience in their order', async () => {
    const layer = randomLayer(4, 64, 16, 5, 3)
    layer.salience.fill(1)
    expect([...(await allocate(layer)).groupBits]).toEqual([2, 3, 3, 4])
  })

  it('gives the same KL, bit by bit, with one thread and two', async () => {
    const layer = randomLayer(65, 300, 24, 700, 2)
    expect((await allocate(layer, 3, 2)).kl).toEqual((await allocate(layer, 3, 1)).kl)
  })

  it('refuses a salience of another length', () => {
    const layer = randomLayer(4, 64, 16, 5, 3)
    layer.salience = new Float64Array(5)
    return expect(async () => allocate(layer)).rejects.toMatchObject({ parameter: 'salience' })
  })
})
