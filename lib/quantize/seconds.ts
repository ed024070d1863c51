/** Wall-clock seconds by phase and layer, of one shard or of a run. */
import type { Timing } from '../packed/manifest.js'

export type Seconds = Omit<Timing, 'total'>

export const PHASES = [
  ...(['sensitivity', 'calibrate', 'propagate', 'factor', 'allocation'] as const),
  ...(['quantizer', 'compensation', 'refinement'] as const),
]

export function noSeconds(): Seconds {
  const phases = Object.fromEntries(PHASES.map((phase) => [phase, 0])) as Record<
    (typeof PHASES)[number],
    number
  >
  return { ...phases, layers: {} }
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

/**
 * Seconds that a run has still to work, from its blocks done: those to come take as long as this run's own, or where it
 * has none yet, as those of the run that it continues. Of these `resumed` blocks all but `replayed` have first to be
 * run again for their effect on the states. null where nothing is done yet.
 */
export function estimateSecondsLeft(
  done: readonly { elapsed: number; seconds: Seconds }[],
  { blocks, resumed, replayed }: { blocks: number; resumed: number; replayed: number },
): number | null {
  const left = blocks - done.length
  if (left === 0 || done.length === 0) return left === 0 ? 0 : null
  const timed = done.length > resumed ? done.slice(resumed) : done
  const pace = timed.reduce((sum, { elapsed }) => sum + elapsed, 0) / timed.length
  return done.slice(replayed, resumed).reduce((sum, { seconds }) => sum + seconds.propagate, left * pace)
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
