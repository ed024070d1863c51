/** SliM-LLM's steps in float64 by plain loops (METHODS: section 1), the oracles of native/quant. */

export interface RowFit {
  scale: number
  /** Zero point, or the mean for 1 bit. */
  offset: number
}

/** Half to even. */
export function round(x: number): number {
  const floor = Math.floor(x)
  const rest = x - floor
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor
}

export function quantizeValue(
  w: number,
  bits: number,
  { scale, offset }: RowFit,
): { code: number; value: number } {
  if (bits === 1) return w >= offset ? { code: 1, value: offset + scale } : { code: 0, value: offset - scale }
  const code = Math.min(Math.max(round(w / scale) + offset, 0), 2 ** bits - 1)
  return { code, value: scale * (code - offset) }
}

function range(w: ArrayLike<number>): [number, number] {
  let [lo, hi] = [0, 0]
  for (let j = 0; j < w.length; j++) [lo, hi] = [Math.min(lo, w[j]!), Math.max(hi, w[j]!)]
  return lo === 0 && hi === 0 ? [-1, 1] : [lo, hi]
}

const fitRange = (lo: number, hi: number, bits: number): RowFit => {
  const scale = (hi - lo) / (2 ** bits - 1)
  return { scale, offset: round(-lo / scale) }
}

/** Min-max; for 1 bit mean and mean magnitude. */
export function fitMinMax(w: ArrayLike<number>, bits: number): RowFit {
  if (bits > 1) return fitRange(...range(w), bits)
  const values = Array.from(w)
  const mean = (of: number[]) => of.reduce((a, b) => a + b, 0) / of.length
  const constant = values.every((value) => value === values[0])
  return { scale: constant ? 0 : mean(values.map(Math.abs)), offset: mean(values) }
}

/** Σ |e|^2.4 */
export function searchLoss(w: ArrayLike<number>, bits: number, fit: RowFit): number {
  let loss = 0
  for (let j = 0; j < w.length; j++) loss += Math.abs(quantizeValue(w[j]!, bits, fit).value - w[j]!) ** 2.4
  return loss
}

/** The candidates of SQC in their order. */
export function searchCandidates(w: ArrayLike<number>, bits: number): RowFit[] {
  const [lo, hi] = range(w)
  const steps = Array.from({ length: 50 }, (_, k) => (0.1 * (k + 1)) / 50)
  return [1, ...steps.map((s) => 1 + s), ...steps.map((s) => 1 - s)].map((p) =>
    fitRange(p * lo, p * hi, bits),
  )
}

const WIDE_FACTORS = Array.from({ length: 17 }, (_, k) => Math.fround((30 + 5 * k) / 100))

/** Σ h e² */
export function weightedLoss(w: ArrayLike<number>, h: ArrayLike<number>, bits: number, fit: RowFit): number {
  let loss = 0
  for (let j = 0; j < w.length; j++) loss += h[j]! * (w[j]! - quantizeValue(w[j]!, bits, fit).value) ** 2
  return loss
}

/** The scales (float32) and zero points of the wide search in their order (METHODS: section 2). */
export function wideCandidates(w: ArrayLike<number>, bits: number): RowFit[] {
  const float = Math.fround
  const [lo, hi] = range(w)
  const maxCode = 2 ** bits - 1
  const own = float(float(hi - lo) / maxCode)
  const near = round(float(-lo / own))
  const [first, count] =
    maxCode < 16 ? [0, maxCode + 1] : [Math.min(Math.max(near - 2, 0), maxCode + 1 - 4), 4]
  const candidates: RowFit[] = []
  for (let offset = first; offset < first + count; offset++) {
    const above = offset < maxCode ? float(hi / (maxCode - offset)) : 0
    const below = offset > 0 ? float(-lo / offset) : 0
    for (const base of [Math.max(above, below), own])
      for (const factor of WIDE_FACTORS) candidates.push({ scale: float(base * factor), offset })
  }
  return candidates.filter(({ scale }) => scale > 0)
}

/** Three times the scale that is best for the codes, where it loses less. */
export function improveScale(
  w: ArrayLike<number>,
  h: ArrayLike<number>,
  bits: number,
  { scale, offset }: RowFit,
): RowFit {
  let best = scale
  for (let pass = 0; pass < 3; pass++) {
    let [products, squares] = [0, 0]
    for (let j = 0; j < w.length; j++) {
      const level = quantizeValue(w[j]!, bits, { scale: best, offset }).code - offset
      products += h[j]! * level * w[j]!
      squares += h[j]! * level * level
    }
    const moved = Math.fround(products / squares)
    const loss = (s: number) => weightedLoss(w, h, bits, { scale: s, offset })
    if (moved > 0 && loss(moved) < loss(best)) best = moved
  }
  return { scale: best, offset }
}

/** One bit of the wide search: mean and mean deviation, weighted by h unless that is all zeros. */
export function fitWideOneBit(w: ArrayLike<number>, h: ArrayLike<number>): RowFit {
  const values = Array.from(w)
  const total = values.reduce((sum, _, j) => sum + h[j]!, 0)
  const cost = (j: number) => (total > 0 ? h[j]! / total : 1 / values.length)
  const mean = (of: number[]) => of.reduce((sum, value, j) => sum + cost(j) * value, 0)
  const offset = mean(values)
  const constant = values.every((value) => value === values[0])
  return { scale: constant ? 0 : mean(values.map((value) => Math.abs(value - offset))), offset }
}

/** log max(softmax(y), 1e-6) */
function logProbabilities(y: number[]): number[] {
  const greatest = Math.max(...y)
  const normalizer = greatest + Math.log(y.reduce((sum, v) => sum + Math.exp(v - greatest), 0))
  return y.map((v) => Math.max(v - normalizer, Math.log(1e-6)))
}

/** KL(softmax(quantized) ‖ softmax(original)), clamped, not renormalized; one token's outputs. */
export function divergence(quantized: number[], original: number[]): number {
  const [t, r] = [logProbabilities(quantized), logProbabilities(original)]
  return t.reduce((sum, log, i) => sum + Math.exp(log) * (log - r[i]!), 0)
}
