import { afterEach, describe, expect, it } from 'vitest'
import { addon, run } from '../../../lib/native/addon.js'
import { floatToHalf } from '../../support/half.js'
import { unpack } from '../../support/packed.js'
import { normals } from '../../support/random.js'
import {
  fitWideOneBit,
  improveScale,
  type RowFit,
  weightedLoss,
  wideCandidates,
} from '../../support/reference.js'

const native = addon()
const best = native.instructionSet()
afterEach(() => native.setInstructionSet(best))

const shapes = [
  [1, 1, 1],
  [1, 40, 32],
  [16, 64, 64],
  [37, 83, 24],
  [20, 200, 128],
] as const
const cases = shapes.flatMap(([rows, cols, groupSize]) =>
  [1, 2, 3, 4, 5, 8].flatMap((bits) =>
    (['all alike', 'by the diagonal'] as const).map((costs) => [rows, cols, groupSize, bits, costs] as const),
  ),
)

/** Rows of zeros, constant rows and rows with an outlier among others. */
const weights = (rows: number, cols: number, seed: number) =>
  normals(seed, rows * cols).map((value, i) => {
    const kind = Math.floor(i / cols) % 7
    if (kind === 3) return 0
    if (kind === 4) return -0.3
    return kind === 5 && i % cols === 2 ? 20 : 0.03 * value
  })

/** Costs of many magnitudes; every ninth channel never fires. */
const diagonal = (cols: number, seed: number) =>
  normals(seed, cols).map((value, j) => (cols > 9 && j % 9 === 4 ? 0 : Math.exp(2 * value)))

/** What is stored of a fit. */
const stored = ({ scale, offset }: RowFit, bits: number) =>
  `${floatToHalf(scale)} ${bits === 1 ? floatToHalf(offset) : offset}`

/** Through fitGroups, where all columns cost the same, or through gptq on a diagonal Hessian, which feeds nothing back. */
async function fitted(
  w: Float32Array,
  h: Float32Array | null,
  cols: number,
  groupSize: number,
  bits: number,
) {
  const weight = native.tensorFrom(w, 'F32', [w.length / cols, cols])
  const groupBits = new Uint8Array(Math.ceil(cols / groupSize)).fill(bits)
  const options = { groupSize, quantizer: 'wide' } as const
  if (!h) return unpack(await run(native.fitGroups(weight, groupBits, options, 2)))
  const matrix = new Float32Array(cols * cols)
  for (const [j, value] of h.entries()) matrix[j * cols + j] = value
  const hessian = native.tensorFrom(matrix, 'F32', [cols, cols])
  return unpack(await run(native.gptq(weight, hessian, groupBits, options, 2)))
}

/** Weights, costs, and the index in scales and offsets, of every row of every group. */
function rowsOfGroups(w: Float32Array, h: Float32Array | null, cols: number, groupSize: number) {
  const [rows, groups] = [w.length / cols, Math.ceil(cols / groupSize)]
  const costs = h ?? new Float32Array(cols).fill(1)
  return Array.from({ length: groups * rows }, (_, index) => {
    const [begin, r] = [Math.floor(index / rows) * groupSize, index % rows]
    const end = Math.min(cols, begin + groupSize)
    // A channel that never fires has lost its weights.
    const row = w.slice(r * cols + begin, r * cols + end).map((v, j) => (costs[begin + j] === 0 ? 0 : v))
    return { row, costs: costs.subarray(begin, end), index }
  })
}

describe('the wide search', () => {
  it.each(cases)('%i × %i, groups of %i, %i bits, columns weighed %s', async (...shape) => {
    const [rows, cols, groupSize, bits, kind] = shape
    const w = weights(rows, cols, rows + 7 * bits)
    const h = kind === 'all alike' ? null : diagonal(cols, bits)
    const expected = rowsOfGroups(w, h, cols, groupSize).map(({ row, costs, index }) => {
      if (bits === 1) return { index, fits: [fitWideOneBit(row, costs)] }
      const candidates = wideCandidates(row, bits).map((c) => ({
        ...c,
        loss: weightedLoss(row, costs, bits, c),
      }))
      const least = Math.min(...candidates.map(({ loss }) => loss))
      const power = row.reduce((sum, value, j) => sum + costs[j]! * value * value, 0)
      // What float32 cannot tell from the least: its sums, and a weight at a tie that takes the other code.
      const limit = least * (1 + 2e-5 + 1e-6 * 2 ** bits) + 1e-13 * power
      candidates.sort((a, b) => a.loss - b.loss) // stable: the first of equals stays first
      const near = candidates.filter(({ loss }) => loss <= limit)
      return { index, fits: near.map((start) => improveScale(row, costs, bits, start)) }
    })
    for (const set of native.instructionSets()) {
      native.setInstructionSet(set)
      const parts = await fitted(w, h, cols, groupSize, bits)
      let [unequivocal, same] = [0, 0]
      for (const { index, fits } of expected) {
        const [scale, offset] = [parts.scales[index]!, parts.offsets[index]!]
        const isNear = (value: number, of: number) => Math.abs(value - of) <= 1e-3 * Math.abs(of) + 2 ** -24
        const chosen = fits.find(
          (f) => isNear(scale, f.scale) && (bits === 1 ? isNear(offset, f.offset) : offset === f.offset),
        )
        expect(
          chosen,
          `${set}, row ${index}: ${scale}, ${offset} of ${JSON.stringify(fits[0])}`,
        ).toBeDefined()
        const [first, ...others] = new Set(fits.map((f) => stored(f, bits)))
        if (others.length > 0) continue
        unequivocal++
        if (stored({ scale, offset }, bits) === first) same++
      }
      // Of constant rows many candidates lose nothing; a scale on a float16 boundary may fall elsewhere.
      if (rows > 10) expect(unequivocal).toBeGreaterThan(0.4 * expected.length)
      expect(same).toBeGreaterThanOrEqual(0.98 * unequivocal - 1)
    }
  })

  it('loses far less than the range at 2 bits, and what the columns cost decides for whom', async () => {
    const [rows, cols] = [64, 64]
    const w = normals(5, rows * cols)
    const h = diagonal(cols, 3).map((value) => value + 1e-3)
    const weight = native.tensorFrom(w, 'F32', [rows, cols])
    const loss = (parts: ReturnType<typeof unpack>) =>
      rowsOfGroups(w, h, cols, cols).reduce(
        (sum, { row, costs, index }) =>
          sum + weightedLoss(row, costs, 2, { scale: parts.scales[index]!, offset: parts.offsets[index]! }),
        0,
      )
    const bits = Uint8Array.of(2)
    const range = unpack(
      await run(native.fitGroups(weight, bits, { groupSize: cols, quantizer: 'minmax' }, 2)),
    )
    const [alike, weighed] = [await fitted(w, null, cols, cols, 2), await fitted(w, h, cols, cols, 2)]
    expect(loss(alike)).toBeLessThan(0.7 * loss(range))
    expect(loss(weighed)).toBeLessThan(0.9 * loss(alike))
  })

  it('fits a group whose channels never fire as one of zeros', async () => {
    const h = Float32Array.from({ length: 48 }, (_, j) => (j < 24 ? 0 : 1))
    for (const bits of [1, 2, 4, 8]) {
      const parts = await fitted(normals(1, 5 * 48), h, 48, 24, bits)
      for (let r = 0; r < 5; r++)
        for (let j = 0; j < 24; j++) expect(parts.codes[r * 48 + j]).toBe(bits === 1 ? 1 : parts.offsets[r])
      expect(parts.scales.subarray(0, 5).every((scale) => (bits === 1 ? scale === 0 : scale > 0))).toBe(true)
    }
  })
})
