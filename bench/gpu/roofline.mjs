// The least time that a product can take: the largest of its instructions over issue slots, its bytes over bandwidth, and
// its operations over the matrix rate.

/** An H200, as measured by others. */
export const H200 = {
  name: 'H200',
  multiprocessors: 132,
  schedulers: 4,
  hertz: 1.755e9,
  bytesPerSecond: 4.3e12,
  operationsPerSecond: 790e12,
  // 62.9 % of the nominal 989 TFLOP/s is what mma.sync, which our kernels use, reaches on Hopper (arXiv 2402.13499).
  mmaSyncPerSecond: 622e12,
}
const LANES = 32
/** Tokens of one tensor-core instruction: what is missing to a multiple of it is computed for nothing. */
const TILE_TOKENS = 8

/** `instructions`: of a lane for every weight, so that a warp issues a 32nd of them. */
export function packedTime({ weights, tokens, instructions, bits }, device = H200) {
  const { multiprocessors, schedulers, hertz, bytesPerSecond, mmaSyncPerSecond } = device
  const padded = Math.ceil(tokens / TILE_TOKENS) * TILE_TOKENS
  return slowest({
    issue: (weights * instructions) / LANES / (multiprocessors * schedulers * hertz),
    bytes: (weights * bits) / 8 / bytesPerSecond,
    matrix: (2 * weights * padded) / mmaSyncPerSecond,
  })
}

export function halfTime({ weights, tokens }, { bytesPerSecond, operationsPerSecond } = H200) {
  return slowest({
    bytes: (2 * weights) / bytesPerSecond,
    matrix: (2 * weights * tokens) / operationsPerSecond,
  })
}

/** { limit: the name of the longest time, seconds } */
function slowest(times) {
  const [limit, seconds] = Object.entries(times).reduce((a, b) => (b[1] > a[1] ? b : a))
  return { limit, seconds }
}
