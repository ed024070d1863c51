import { describe, expect, it } from 'vitest'
import type { SlimError } from '../../lib/errors.js'
import { addon, run } from '../../lib/native/addon.js'
import {
  allocateBudget,
  MOST_BITS,
  type ScoredLayer,
  storedGroupBits,
  storedLayerBits,
} from '../../lib/quantize/budget.js'
import { normals, uniform } from '../support/random.js'

interface Choice {
  stored: number
  error: number
}

/** Every group of the layers, as its choices by bits − 1. */
function groupsOf(layers: readonly ScoredLayer[]): Choice[][] {
  return layers.flatMap(({ rows, cols, groupSize, errors }) =>
    Array.from({ length: Math.ceil(cols / groupSize) }, (_, g) =>
      Array.from({ length: MOST_BITS }, (_, k) => ({
        stored: storedGroupBits(rows, Math.min(groupSize, cols - g * groupSize), k + 1),
        error: errors[g * MOST_BITS + k]!,
      })),
    ),
  )
}

/** Totals of every allocation there is. */
function everyAllocation(layers: readonly ScoredLayer[]): Choice[] {
  return groupsOf(layers).reduce<Choice[]>(
    (totals, choices) =>
      totals.flatMap((total) =>
        choices.map(({ stored, error }) => ({ stored: total.stored + stored, error: total.error + error })),
      ),
    [{ stored: 0, error: 0 }],
  )
}

function totalOf(layers: readonly ScoredLayer[], allocation: ReadonlyMap<string, Uint8Array>): Choice {
  const bits = layers.flatMap(({ name }) => [...allocation.get(name)!])
  return groupsOf(layers).reduce(
    ({ stored, error }, choices, g) => ({
      stored: stored + choices[bits[g]! - 1]!.stored,
      error: error + choices[bits[g]! - 1]!.error,
    }),
    { stored: 0, error: 0 },
  )
}

/** Allocations that no other one beats in both, on the lower convex hull: best for some price of a bit. */
function hullOf(all: readonly Choice[]): Choice[] {
  const hull: Choice[] = []
  const slope = (a: Choice, b: Choice) => (a.error - b.error) / (b.stored - a.stored)
  for (const point of all.toSorted((a, b) => a.stored - b.stored || a.error - b.error)) {
    if (hull.length > 0 && point.error >= hull.at(-1)!.error) continue
    while (hull.length > 1 && slope(hull.at(-2)!, hull.at(-1)!) <= slope(hull.at(-1)!, point)) hull.pop()
    hull.push(point)
  }
  return hull
}

/** Errors that fall about fourfold a bit, with groups that matter more; now and then they rise, or are all zero. */
function randomLayers(seed: number, shapes: [number, number, number][]): ScoredLayer[] {
  const random = uniform(seed)
  return shapes.map(([rows, cols, groupSize], index) => ({
    ...{ name: `layer.${index}`, rows, cols, groupSize },
    errors: Float64Array.from({ length: Math.ceil(cols / groupSize) }, () => 10 ** (4 * random()))
      .reduce<number[]>((errors, size) => {
        const none = random() < 0.1
        for (let bits = 1; bits <= MOST_BITS; bits++)
          errors.push(none ? 0 : size * 4 ** -bits * (0.4 + 1.2 * random()))
        return errors
      }, [])
      .reduce(
        (errors, error, i) => errors.fill(error, i, i + 1),
        new Float64Array(Math.ceil(cols / groupSize) * MOST_BITS),
      ),
  }))
}

const tiny: [string, [number, number, number][]][] = [
  ['one group', [[3, 32, 32]]],
  ['two groups, the last short', [[7, 41, 32]]],
  [
    'layers of several shapes',
    [
      [16, 64, 32],
      [5, 33, 32],
    ],
  ],
  [
    'groups of a column or two',
    [
      [8, 9, 4],
      [4, 2, 2],
    ],
  ],
]

describe('storedGroupBits', () => {
  it.each([
    [1, 1, 1],
    [8, 64, 32],
    [7, 45, 32],
    [37, 83, 24],
    [3, 130, 128],
  ])('is what a packed matrix stores: %i × %i, groups of %i', async (rows, cols, groupSize) => {
    const weight = addon().tensorFrom(normals(1, rows * cols), 'F32', [rows, cols])
    const groups = Math.ceil(cols / groupSize)
    const storedBits = async (groupBits: Uint8Array) =>
      8 * (await run(addon().fitGroups(weight, groupBits, { groupSize, quantizer: 'minmax' }, 1))).storedBytes
    for (let bits = 1; bits <= MOST_BITS; bits++) {
      const stored = await storedBits(new Uint8Array(groups).fill(bits))
      expect(storedLayerBits({ rows, cols, groupSize }, bits)).toBe(stored)
      const mixed = Uint8Array.from({ length: groups }, (_, g) => 1 + ((g + bits) % MOST_BITS))
      const expected = mixed.reduce(
        (sum, b, g) => sum + storedGroupBits(rows, Math.min(groupSize, cols - g * groupSize), b),
        0,
      )
      expect(await storedBits(mixed)).toBe(expected)
    }
  })
})

describe('allocateBudget', () => {
  describe.each(tiny)('of %s, against every allocation there is', (_, shapes) => {
    it.each([1, 2, 3, 4, 5, 6])('seed %i', (seed) => {
      const layers = randomLayers(seed, shapes)
      const all = everyAllocation(layers)
      const [least, most] = [0, 0].map((_, i) =>
        (i ? Math.max : Math.min)(...all.map(({ stored }) => stored)),
      ) as [number, number]
      const hull = hullOf(all)
      // A budget that a corner spends to the last bit gets it.
      for (const corner of hull) {
        const total = totalOf(layers, allocateBudget(layers, corner.stored))
        expect(total.stored).toBeLessThanOrEqual(corner.stored)
        expect(total.error).toBeLessThanOrEqual(corner.error * (1 + 1e-12))
      }
      let before = Number.POSITIVE_INFINITY
      for (let budget = least; budget <= most; budget += Math.max(1, Math.floor((most - least) / 97))) {
        const total = totalOf(layers, allocateBudget(layers, budget))
        expect(total.stored).toBeLessThanOrEqual(budget)
        // At least as good as the last corner within the budget, and never worse for more budget.
        const corner = hull.findLast(({ stored }) => stored <= budget)!
        expect(total.error).toBeLessThanOrEqual(corner.error * (1 + 1e-12))
        expect(total.error).toBeLessThanOrEqual(before * (1 + 1e-12))
        before = total.error
      }
    })
  })

  it('leaves less unspent than any group could use', () => {
    for (let seed = 10; seed < 30; seed++) {
      const layers = randomLayers(seed, [
        [24, 200, 32],
        [7, 90, 64],
        [40, 64, 64],
      ])
      const groups = groupsOf(layers)
      const uniformBits = layers.reduce((sum, layer) => sum + storedLayerBits(layer, 2), 0)
      const allocation = allocateBudget(layers, uniformBits)
      const left = uniformBits - totalOf(layers, allocation).stored
      expect(left).toBeGreaterThanOrEqual(0)
      const bits = layers.flatMap(({ name }) => [...allocation.get(name)!])
      groups.forEach((choices, g) => {
        const now = choices[bits[g]! - 1]!
        const corners = hullOf(choices)
        const next = corners[corners.findIndex(({ stored }) => stored === now.stored) + 1]
        expect(corners).toContainEqual(now)
        if (next) expect(next.stored - now.stored).toBeGreaterThan(left)
      })
    }
  })

  it('gives groups that matter more no fewer bits', () => {
    const [layer] = randomLayers(1, [[16, 128, 32]])
    const falling = Float64Array.from({ length: 4 * MOST_BITS }, (_, i) => {
      const [group, bits] = [Math.floor(i / MOST_BITS), (i % MOST_BITS) + 1]
      return 10 ** group * 4 ** -bits
    })
    const allocation = allocateBudget([{ ...layer!, errors: falling }], storedLayerBits(layer!, 3))
    const bits = [...allocation.get('layer.0')!]
    expect(bits).toEqual(bits.toSorted())
    expect(bits[3]).toBeGreaterThan(bits[0]!)
  })

  it('says what range can be met where a budget cannot', () => {
    const layers = randomLayers(2, [
      [16, 64, 32],
      [5, 33, 32],
    ])
    const weights = 16 * 64 + 5 * 33
    const stored = everyAllocation(layers).map((choice) => choice.stored)
    for (const budget of [Math.min(...stored) - 1, Math.max(...stored) + 1, 0]) {
      let error: unknown
      try {
        allocateBudget(layers, budget)
      } catch (caught) {
        error = caught
      }
      expect(error).toMatchObject({
        code: 'SLIM_BUDGET',
        parameter: 'bitsPerWeight',
        received: (budget / weights).toFixed(4),
        message: expect.stringMatching(/bitsPerWeight .* Give \d/),
      })
      const [least, most] = (error as SlimError).expected!.split(' to ').map(Number) as [number, number]
      expect(least - Math.min(...stored) / weights).toBeLessThan(1e-4)
      expect(Math.max(...stored) / weights - most).toBeLessThan(1e-4)
      // What it says can be met can be.
      for (const bitsPerWeight of [least, most]) allocateBudget(layers, bitsPerWeight * weights)
    }
    for (const budget of [Math.min(...stored), Math.max(...stored)])
      expect(totalOf(layers, allocateBudget(layers, budget)).stored).toBeLessThanOrEqual(budget)
  })
})
