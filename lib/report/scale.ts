/** Numbers to pixels, and the round numbers that an axis shows. */

export interface Scale {
  (value: number): number
  readonly ticks: readonly number[]
}

/** Steps of 1, 2, 2.5 or 5 times a power of ten: about `count` of them between the bounds. */
function linearTicks(low: number, high: number, count: number): number[] {
  const rough = (high - low) / count
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = power * ([1, 2, 2.5, 5, 10].find((s) => s * power >= rough) ?? 10)
  const ticks: number[] = []
  // Whole multiples, so that no tick is off by a sum of roundings.
  for (let i = Math.ceil(low / step); i * step <= high; i++) ticks.push(Number((i * step).toPrecision(12)))
  return ticks
}

/** 1, 2 and 5 times the powers of ten, or the powers alone where that would be too many. */
function logTicks(low: number, high: number): number[] {
  const decades = Math.log10(high / low)
  if (decades < 0.7) return linearTicks(low, high, 6)
  const steps = decades > 3 ? [1] : [1, 2, 5]
  const ticks: number[] = []
  for (let power = 10 ** Math.floor(Math.log10(low)); power <= high; power *= 10)
    for (const step of steps) if (step * power >= low && step * power <= high) ticks.push(step * power)
  return ticks
}

/** [low, high] spread by `margin` of its length (or of its value, where it has none) on both sides. */
function spread(low: number, high: number, margin: number): [number, number] {
  const pad = (high - low || Math.abs(low) || 1) * margin
  return [low - pad, high + pad]
}

export function linearScale(values: readonly number[], from: number, to: number): Scale {
  const [low, high] = spread(Math.min(...values), Math.max(...values), 0.06)
  const scale = (value: number) => from + ((value - low) / (high - low)) * (to - from)
  return Object.assign(scale, { ticks: linearTicks(low, high, 8) })
}

export function logScale(values: readonly number[], from: number, to: number): Scale {
  const [low, high] = spread(Math.log(Math.min(...values)), Math.log(Math.max(...values)), 0.06)
  const scale = (value: number) => from + ((Math.log(value) - low) / (high - low)) * (to - from)
  return Object.assign(scale, { ticks: logTicks(Math.exp(low), Math.exp(high)) })
}
