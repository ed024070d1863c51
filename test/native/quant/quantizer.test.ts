import { afterEach, describe, expect, it } from 'vitest'
import { addon, type Quantizer, run } from '../../../lib/native/addon.js'
import { dequantizeParts, toHalf, unpack } from '../../support/packed.js'
import { normals } from '../../support/random.js'
import { fitMinMax, quantizeValue, searchCandidates, searchLoss } from '../../support/reference.js'

const native = addon()
const best = native.instructionSet()
afterEach(() => native.setInstructionSet(best))

const shapes = [
  [1, 1, 1],
  [3, 40, 32],
  [16, 64, 64],
  [37, 83, 24],
  [35, 200, 128],
] as const

const cases = shapes.flatMap(([rows, cols, groupSize]) =>
  [1, 2, 3, 4, 8].map((bits) => [rows, cols, groupSize, bits] as const),
)

async function fitted(w: Float32Array, cols: number, groupSize: number, bits: number, quantizer: Quantizer) {
  const weight = native.tensorFrom(w, 'F32', [w.length / cols, cols])
  const groupBits = new Uint8Array(Math.ceil(cols / groupSize)).fill(bits)
  return unpack(await run(native.fitGroups(weight, groupBits, { groupSize, quantizer }, 2)))
}

/** Calls body with every row of every group: its weights and its index in scales and offsets. */
function forGroups(
  w: Float32Array,
  cols: number,
  groupSize: number,
  body: (row: Float32Array, index: number, codeAt: number) => void,
) {
  const rows = w.length / cols
  for (let g = 0; g * groupSize < cols; g++)
    for (let r = 0; r < rows; r++) {
      const at = r * cols + g * groupSize
      body(w.subarray(at, r * cols + Math.min(cols, (g + 1) * groupSize)), g * rows + r, at)
    }
}

describe('min-max and one-bit groups', () => {
  it.each(cases)('%i × %i, groups of %i, %i bits', async (rows, cols, groupSize, bits) => {
    const w = normals(rows + bits, rows * cols)
    const parts = await fitted(w, cols, groupSize, bits, 'minmax')
    const expected: number[] = []
    const offsets: number[] = []
    forGroups(w, cols, groupSize, (row) => {
      const { scale, offset } = fitMinMax(row, bits)
      expected.push(scale)
      offsets.push(offset)
    })
    const scales = (await toHalf(expected)).values
    const means = (await toHalf(offsets)).values
    let [codes, other] = [0, 0]
    forGroups(w, cols, groupSize, (row, i, at) => {
      expect(Math.abs(parts.scales[i]! / (scales[i]! || 1) - (scales[i] ? 1 : 0))).toBeLessThan(1.1e-3)
      if (bits === 1)
        expect(Math.abs(parts.offsets[i]! - means[i]!)).toBeLessThan(1e-3 * Math.abs(means[i]!) + 1e-6)
      else if (parts.offsets[i] !== offsets[i]) other++
      row.forEach((value, j) => {
        const { code } = quantizeValue(value, bits, { scale: parts.scales[i]!, offset: parts.offsets[i]! })
        if (code !== parts.codes[at + j]) codes++
      })
    })
    // Codes are those of the stored scale; only a weight or zero point at a tie of float32 may fall elsewhere.
    expect(codes).toBeLessThanOrEqual(w.length * 1e-3)
    expect(other).toBeLessThanOrEqual(parts.offsets.length * 1e-2)
  })
})

describe.each(native.instructionSets())('SQC with %s', (set) => {
  it.each(cases.filter(([, , , bits]) => bits > 1))(
    '%i × %i, groups of %i, %i bits',
    async (rows, cols, groupSize, bits) => {
      native.setInstructionSet(set)
      const w = normals(rows + 7 * bits, rows * cols).map((v) => v * 0.03)
      const parts = await fitted(w, cols, groupSize, bits, 'sqc')
      const candidates: { scale: number; offset: number; loss: number }[][] = []
      forGroups(w, cols, groupSize, (row) => {
        candidates.push(searchCandidates(row, bits).map((c) => ({ ...c, loss: searchLoss(row, bits, c) })))
      })
      forGroups(w, cols, groupSize, (row, i) => {
        const least = Math.min(...candidates[i]!.map((c) => c.loss))
        // The candidate that was chosen, up to float16: its loss is the least, up to float32's last bits. A weight at
        // a tie of float32 moves the loss of single-element groups more.
        const chosen = candidates[i]!.filter(
          (c) => c.offset === parts.offsets[i] && Math.abs(parts.scales[i]! / c.scale - 1) < 5e-4,
        )
        const loss = Math.min(...chosen.map((c) => c.loss))
        expect(loss).toBeLessThanOrEqual(least * (1 + 2e-5) + row.length * 1e-18)
      })
    },
  )

  it('chooses as the plain loop does, but for ties', async () => {
    const w = normals(77, 100 * 256)
    const chosen = async (name: typeof set) => {
      native.setInstructionSet(name)
      return fitted(w, 256, 64, 3, 'sqc')
    }
    const [plain, vector] = [await chosen('portable'), await chosen(set)]
    const same = vector.scales.filter(
      (scale, i) => scale === plain.scales[i] && vector.offsets[i] === plain.offsets[i],
    )
    expect(same.length / plain.scales.length).toBeGreaterThan(0.99)
  })
})

describe('groups that are hard to divide by', () => {
  const values: [string, (i: number) => number][] = [
    ['zeros', () => 0],
    ['a constant', () => 0.25],
    ['a negative constant', () => -3],
    ['tiny weights', (i) => ((i % 7) - 3) * 1e-12],
    ['denormal weights', (i) => ((i % 7) - 3) * 1e-41],
    ['the least weights', (i) => ((i % 3) - 1) * 1.5e-45],
    ['weights of 1e-42', (i) => ((i % 7) - 3) * 1e-42],
    ['weights of 1e-30', (i) => ((i % 7) - 3) * 1e-30],
    ['tiny, of many magnitudes', (i) => (i % 2 ? -1 : 1) * 10 ** (-26 - (i % 19))],
    ['the greatest weights', (i) => ((i % 3) - 1) * 3.4e38],
    ['huge weights', (i) => ((i % 7) - 3) * 1e7],
    ['one outlier', (i) => (i === 5 ? 1000 : 1e-3)],
  ]
  const settings = (['minmax', 'sqc', 'wide'] as const).flatMap((quantizer) =>
    [1, 2, 3, 8].map((bits) => [quantizer, bits] as const),
  )
  describe.each(values)('%s', (name, value) => {
    it.each(settings)('%s, %i bits', async (quantizer, bits) => {
      const w = Float32Array.from({ length: 3 * 40 }, (_, i) => value(i % 40))
      for (const set of native.instructionSets()) {
        native.setInstructionSet(set)
        const parts = await fitted(w, 40, 40, bits, quantizer)
        const q = dequantizeParts(parts)
        expect(q.every(Number.isFinite)).toBe(true)
        if (bits > 1) expect(parts.scales.every((scale) => scale > 0)).toBe(true)
        if (bits > 1) expect(parts.offsets.every((zero) => zero >= 0 && zero < 2 ** bits)).toBe(true)
        if (/least|1e-|tiny/.test(name)) q.forEach((v) => void expect(Math.abs(v)).toBeLessThan(2 ** -24))
        if (name === 'zeros') {
          expect(q.every((v) => v === 0)).toBe(true)
          // All candidates lose nothing: the first one, the whole range [−1, 1], wins.
          if (bits > 1 && quantizer !== 'wide') expect(parts.scales[0]).toBeCloseTo(2 / (2 ** bits - 1), 3)
        }
        if (name.endsWith('constant'))
          q.forEach((v, i) => void expect(Math.abs(v / w[i]! - 1)).toBeLessThan(1e-3))
      }
    })
  })

  it('codes a weight at the mean of a one-bit group as above it', async () => {
    const parts = await fitted(new Float32Array([-1, 0, 1]), 3, 3, 1, 'minmax')
    expect([...parts.codes]).toEqual([0, 1, 1])
  })
})
