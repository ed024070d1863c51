/** Wall-clock seconds by phase and layer, of one shard or of a run. */
import type { Timing } from '../packed/manifest.js'

export type Seconds = Omit<Timing, 'total'>

export const PHASES = ['calibrate', 'propagate', 'factor', 'allocation', 'quantizer', 'compensation'] as const

export function noSeconds(): Seconds {
  return { calibrate: 0, propagate: 0, factor: 0, allocation: 0, quantizer: 0, compensation: 0, layers: {} }
}

export function addSeconds(a: Seconds, b: Seconds): Seconds {
  const sum = noSeconds()
  for (const phase of PHASES) sum[phase] = a[phase] + b[phase]
  sum.layers = { ...a.layers, ...b.layers }
  return sum
}

/** Since a reading of performance.now(). */
export function secondsSince(started: number): number {
  return (performance.now() - started) / 1000
}

/** Adds the time that the work takes to a phase. */
export async function timed<T>(
  seconds: Seconds,
  phase: (typeof PHASES)[number],
  work: () => Promise<T>,
): Promise<T> {
  const started = performance.now()
  try {
    return await work()
  } finally {
    seconds[phase] += secondsSince(started)
  }
}
