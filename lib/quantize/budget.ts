/**
 * Group widths within an exact stored budget: everything that a packed matrix stores is counted (codes, scales, zero
 * points, means, the widths themselves; docs/format.md).
 *
 * Minimize Σ error(group, width) under Σ storedBits(group, width) ≤ budget. By Lagrange, for a price λ of a bit every
 * group takes the width with the least error + λ · storedBits, which is a corner of the lower convex hull of its points
 * (storedBits, error). Going down with λ takes the hulls' edges in the order of their slopes, steepest first, until the
 * budget is spent.
 */
import { SlimError } from '../errors.js'

export const MOST_BITS = 8
const WIDTHS = Array.from({ length: MOST_BITS }, (_, k) => k + 1)

/** A layer whose groups share in a budget. */
export interface BudgetLayer {
  name: string
  rows: number
  cols: number
  groupSize: number
}

export interface ScoredLayer extends BudgetLayer {
  /** What b bits would cost group g: errors[g · MOST_BITS + b − 1]. */
  errors: Float64Array
}

/** Bits that a group of `width` columns takes at `bits`, with its scales, zero points or means, and its own width. */
export function storedGroupBits(rows: number, width: number, bits: number): number {
  const codes = rows * 8 * Math.ceil((width * bits) / 8)
  const scales = rows * 16
  const offsets = bits === 1 ? rows * 16 : 8 * Math.ceil((rows * bits) / 8)
  return codes + scales + offsets + 8
}

/** Stored bits of a layer whose groups all have `bits`. */
export function storedLayerBits(
  { rows, cols, groupSize }: Pick<BudgetLayer, 'rows' | 'cols' | 'groupSize'>,
  bits: number,
): number {
  return groupWidths(cols, groupSize).reduce((sum, width) => sum + storedGroupBits(rows, width, bits), 0)
}

/** SLIM_BUDGET where not even the narrowest widths fit, or the widest leave some of it unspent. */
export function checkBudget(layers: readonly BudgetLayer[], budget: number): void {
  const groups = layers.flatMap(({ rows, cols, groupSize }) =>
    groupWidths(cols, groupSize).map((width) => WIDTHS.map((bits) => storedGroupBits(rows, width, bits))),
  )
  const least = groups.reduce((sum, stored) => sum + Math.min(...stored), 0)
  const most = groups.reduce((sum, stored) => sum + Math.max(...stored), 0)
  if (least <= budget && budget <= most) return
  const weights = layers.reduce((sum, { rows, cols }) => sum + rows * cols, 0)
  // Rounded inwards: what the message says can be met.
  const perWeight = (bits: number, round: (x: number) => number) =>
    (round((bits / weights) * 1e4) / 1e4).toFixed(4)
  const range = `${perWeight(least, Math.ceil)} to ${perWeight(most, Math.floor)}`
  const given = (budget / weights).toFixed(4)
  throw new SlimError(
    'SLIM_BUDGET',
    `bitsPerWeight ${given} cannot be met with groups of 1 to ${MOST_BITS} bits, scales and zero points counted`,
    {
      parameter: 'bitsPerWeight',
      expected: range,
      received: given,
      remedy: `Give ${range}; a larger groupSize, whose scales take less, lowers both`,
    },
  )
}

/** The bits of every group, by layer name, that cost least within `budget` stored bits in all, or SLIM_BUDGET. */
export function allocateBudget(layers: readonly ScoredLayer[], budget: number): Map<string, Uint8Array> {
  checkBudget(layers, budget)
  const groups = layers.flatMap((layer) =>
    groupWidths(layer.cols, layer.groupSize).map((width, index) => {
      const points = WIDTHS.map((bits) => ({
        bits,
        stored: storedGroupBits(layer.rows, width, bits),
        error: layer.errors[index * MOST_BITS + bits - 1]!,
      }))
      const hull = lowerHull(points)
      return { layer, hull, bits: hull[0]!.bits, ended: false }
    }),
  )
  let stored = groups.reduce((sum, { hull }) => sum + hull[0]!.stored, 0)
  const edges = groups.flatMap((group) =>
    group.hull
      .slice(1)
      .map((to, k) => ({ group, to, slope: slope(group.hull[k]!, to), from: group.hull[k]! })),
  )
  edges.sort((a, b) => b.slope - a.slope) // stable: of equals the earlier layer and group
  for (const { group, from, to } of edges) {
    // A group whose next edge does not fit stays as it is; the little that is left goes to later edges that do.
    group.ended ||= stored + to.stored - from.stored > budget
    if (group.ended) continue
    group.bits = to.bits
    stored += to.stored - from.stored
  }
  const bitsOf = (layer: ScoredLayer) =>
    groups.filter((group) => group.layer === layer).map(({ bits }) => bits)
  return new Map(layers.map((layer) => [layer.name, Uint8Array.from(bitsOf(layer))]))
}

interface Point {
  bits: number
  stored: number
  error: number
}

/** The corners from the least stored point on, with falling errors and falling slopes. */
function lowerHull(points: readonly Point[]): Point[] {
  const hull: Point[] = []
  // Not by width: in short groups a mean may outweigh a second bit.
  for (const point of points.toSorted((a, b) => a.stored - b.stored || a.error - b.error)) {
    if (hull.length > 0 && point.error >= hull.at(-1)!.error) continue
    while (hull.length > 1 && slope(hull.at(-2)!, hull.at(-1)!) <= slope(hull.at(-1)!, point)) hull.pop()
    hull.push(point)
  }
  return hull
}

const slope = (from: Point, to: Point) => (from.error - to.error) / (to.stored - from.stored)

/** Columns of each group; the last may have fewer. */
function groupWidths(cols: number, groupSize: number): number[] {
  return Array.from({ length: Math.ceil(cols / groupSize) }, (_, g) =>
    Math.min(groupSize, cols - g * groupSize),
  )
}
