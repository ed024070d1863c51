/** Seeded random numbers: mulberry32, uniform in [0, 1). */
export function uniform(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Seeded standard normal numbers (Box-Muller). */
export function normal(seed: number): () => number {
  const random = uniform(seed)
  return () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
}

/** `count` standard normal float32 values. */
export function normals(seed: number, count: number): Float32Array {
  const next = normal(seed)
  return Float32Array.from({ length: count }, next)
}
