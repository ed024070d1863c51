/** Where labels go so that they do not cover each other. */

export interface Box {
  x: number
  y: number
  width: number
  height: number
}

const overlap = (a: Box, b: Box) =>
  Math.max(0, Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x)) *
  Math.max(0, Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y))

/** A place for a box of this size near (x, y), inside `bounds`, that covers the least of `taken`: near ones first. */
export function placeNear(
  [x, y]: readonly [number, number],
  [width, height]: readonly [number, number],
  bounds: Box,
  taken: readonly Box[],
): Box {
  let best: { box: Box; cost: number } | undefined
  for (let distance = 5; distance <= 45; distance += 8)
    for (const [right, down] of [
      [1, -1],
      [1, 1],
      [-1, -1],
      [-1, 1],
      [0, -1],
      [0, 1],
    ] as const) {
      const box = {
        x: right === 0 ? x - width / 2 : right > 0 ? x + distance : x - distance - width,
        y: down < 0 ? y - distance - height : y + distance,
        width,
        height,
      }
      box.x = Math.min(Math.max(box.x, bounds.x), bounds.x + bounds.width - width)
      box.y = Math.min(Math.max(box.y, bounds.y), bounds.y + bounds.height - height)
      const cost = taken.reduce((sum, other) => sum + overlap(box, other), 0)
      if (cost === 0) return box
      if (!best || cost < best.cost) best = { box, cost }
    }
  return best!.box
}

/** Heights at least `gap` apart and within [low, high] if they fit, each as near to where it would be as the order allows. */
export function spreadOut(wanted: readonly number[], gap: number, low: number, high: number): number[] {
  const order = wanted.map((_, i) => i).sort((a, b) => wanted[a]! - wanted[b]!)
  const placed = [...wanted]
  let floor = low
  for (const i of order) {
    placed[i] = Math.max(placed[i]!, floor)
    floor = placed[i]! + gap
  }
  let ceiling = high
  for (const i of order.reverse()) {
    placed[i] = Math.min(placed[i]!, ceiling)
    ceiling = placed[i]! - gap
  }
  return placed
}
