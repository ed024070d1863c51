// What packed.mjs measured, as tables and a chart. A result is { cols, rows, tokens, name, ours, bytes, error, microseconds:
// null where nothing is timed, gigabytesPerSecond, bandwidthShare, speedups: { peer's name: times faster } }.
import { GOAL_MIX, GOALS, markdownTable, shapeName, TINYGEMM_GOAL, tokensName } from './cases.mjs'
import { CUBLAS } from './products.mjs'
import { TINYGEMM } from './tinygemm.mjs'

const shown = (value, digits) => (value === undefined || value === null ? '' : value.toFixed(digits))

export function resultTable({ timed, results }) {
  const peers = [CUBLAS, TINYGEMM].filter((name) => results.some((result) => result.name === name))
  const header = ['inputs × outputs', 'tokens', 'weights', 'error']
  const timing = ['µs', 'GB/s', 'of copy', ...peers.map((peer) => `× ${peer}`)]
  return markdownTable(
    timed ? [...header, ...timing] : header,
    results.map((result) => {
      const { cols, rows, tokens, name, error, microseconds, gigabytesPerSecond, bandwidthShare } = result
      const cells = [shapeName([cols, rows]), tokens, name, error.toExponential(1)]
      if (!timed) return cells
      const speedups = peers.map((peer) => (name === peer ? '' : shown(result.speedups[peer], 2)))
      const share = `${(100 * bandwidthShare).toFixed(0)} %`
      return [...cells, shown(microseconds, 1), shown(gigabytesPerSecond, 0), share, ...speedups]
    }),
  )
}

/** The goals that these results say something of: { goal, least, reached }. */
export function reachedGoals({ results }) {
  const mix = results.filter(({ name }) => name === GOAL_MIX)
  const worst = (goal, peer, rows) => {
    const ratios = rows.flatMap(({ speedups }) => speedups[peer] ?? [])
    return ratios.length > 0 ? [{ ...goal, reached: Math.min(...ratios) }] : []
  }
  const half = GOALS.flatMap(({ tokens, shape, least }) => {
    const rows = mix.filter(
      (row) => row.tokens === tokens && (!shape || shapeName([row.cols, row.rows]) === shapeName(shape)),
    )
    const where = shape ? shapeName(shape) : 'the worst shape'
    return worst(
      { goal: `times faster than ${CUBLAS}, ${tokensName(tokens)}, ${where}`, least },
      CUBLAS,
      rows,
    )
  })
  const one = mix.filter(({ tokens }) => tokens === 1)
  const goal = { goal: `times faster than ${TINYGEMM}, 1 token, the worst shape`, least: TINYGEMM_GOAL }
  return [...half, ...worst(goal, TINYGEMM, one)]
}

export const goalTable = (report) =>
  markdownTable(
    [`goal of the ${GOAL_MIX}`, 'least', 'reached', ''],
    reachedGoals(report).map(({ goal, least, reached }) => [
      goal,
      least.toFixed(1),
      reached.toFixed(2),
      reached >= least ? 'met' : 'missed',
    ]),
  )

/** Groups for ratioBarsSvg: times faster than cuBLAS. None where nothing is timed, or cuBLAS is not there. */
export function speedupGroups({ results }) {
  const groups = new Map()
  for (const { cols, rows, tokens, name, speedups } of results) {
    const ratio = name === CUBLAS ? undefined : speedups[CUBLAS]
    if (!ratio) continue
    const label = `${shapeName([cols, rows])}, ${tokensName(tokens)}`
    groups.set(label, [...(groups.get(label) ?? []), { series: name, ratio }])
  }
  return [...groups].map(([label, bars]) => ({ label, bars }))
}
