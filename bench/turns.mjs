// Participants that take turns in one process, so that a noisy machine is noisy to all of them alike.
import { setTimeout as pause } from 'node:timers/promises'

export const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1]

/**
 * Times of `rounds` turns of each participant { name, turn(): time, idleMs? }, after one that does not count; who begins
 * changes from round to round. After a turn the others wait for idleMs: workers that still look for work would take a
 * core from them.
 */
export async function takeTurns(participants, rounds) {
  const times = new Map(participants.map(({ name }) => [name, []]))
  for (let round = -1; round < rounds; round++)
    for (let i = 0; i < participants.length; i++) {
      const { name, turn, idleMs = 0 } = participants[(i + round + 1) % participants.length]
      const time = await turn()
      if (round >= 0) times.get(name).push(time)
      if (idleMs) await pause(idleMs)
    }
  return times
}

/** Median of the ratios of the turns of two. */
export const ratio = (times, ours, theirs) =>
  median(times.get(ours).map((time, round) => time / times.get(theirs)[round]))
