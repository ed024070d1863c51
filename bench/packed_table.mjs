// What packed_peers.mjs measured, as comparisons: a table and a chart.

const Q2 = ['ggml Q2_K', 'ggml Q2_K repacked']
const Q3 = ['ggml Q3_K', 'ggml Q3_K repacked']
const Q4 = ['ggml Q4_0', 'ggml Q4_0 repacked', 'ggml Q4_K', 'ggml Q4_K repacked']
// 256 does not divide 576: llama.cpp's 2-bit and 3-bit files hold Q4_0 there.
const FALLBACK = ['ggml Q4_0', 'ggml Q4_0 repacked']
const ONNX = ['ONNX Runtime 2-bit', 'ONNX Runtime 4-bit']

/** Ours, and the peers of which the fastest in the same run is the yardstick. */
const COMPARISONS = [
  { name: '2-bit mix, ggml Q2_K', ours: 'slimllm 2-bit mix', peers: Q2, otherwise: FALLBACK },
  { name: '3-bit mix, ggml Q3_K', ours: 'slimllm 3-bit mix', peers: Q3, otherwise: FALLBACK },
  { name: '4-bit, best 4-bit', ours: 'slimllm 4-bit', peers: [...Q4, ONNX[1]] },
  { name: '2-bit mix, best of all', ours: 'slimllm 2-bit mix', peers: [...Q2, ...Q3, ...Q4, ...ONNX] },
]

const caseOf = ({ cols, rows, tokens, threads }) => JSON.stringify([cols, rows, tokens, threads])

/** One for each shape, number of tokens and number of threads: { cols, rows, tokens, threads, ratios }. */
export function comparisons(results) {
  const cases = groupBy(results, caseOf)
  return [...cases.values()].map((participants) => {
    const { cols, rows, tokens, threads } = participants[0]
    const fastest = (names) =>
      participants
        .filter(({ name }) => names.includes(name))
        .reduce((best, one) => (best && best.microseconds <= one.microseconds ? best : one), undefined)
    const ratios = COMPARISONS.flatMap(({ name, ours, peers, otherwise = [] }) => {
      const own = participants.find((one) => one.name === ours)
      const peer = fastest(peers) ?? fastest(otherwise)
      return own && peer ? [{ name, own, peer, ratio: own.ratios[peer.name] }] : []
    })
    return { cols, rows, tokens, threads, ratios }
  })
}

function groupBy(items, key) {
  const groups = new Map()
  for (const item of items) groups.set(key(item), [...(groups.get(key(item)) ?? []), item])
  return groups
}

export function comparisonTable(results) {
  const lines = [
    '| inputs × outputs | tokens | threads | comparison | µs | peer | µs | ratio | of stream | of pieces |',
    '|---|---|---|---|---|---|---|---|---|---|',
  ]
  for (const { cols, rows, tokens, threads, ratios } of comparisons(results))
    for (const { name, own, peer, ratio } of ratios) {
      const time = ({ microseconds }) => microseconds.toFixed(microseconds < 100 ? 1 : 0)
      const percent = (share) => (tokens === 1 ? `${(100 * share).toFixed(0)} %` : '')
      const cells = [`${cols}×${rows}`, tokens, threads, name.split(',')[0], time(own), peer.name, time(peer)]
      lines.push(
        `| ${[...cells, ratio.toFixed(2), percent(own.bandwidthShare), percent(own.pieceShare)].join(' | ')} |`,
      )
    }
  return lines.join('\n')
}

/** Groups for ratioBarsSvg. */
export const comparisonGroups = (results) =>
  comparisons(results).map(({ cols, rows, tokens, threads, ratios }) => ({
    label: `${cols}×${rows}, ${tokens} ${tokens > 1 ? 'tokens' : 'token'}, ${threads} ${threads > 1 ? 'threads' : 'thread'}`,
    bars: ratios.map(({ name, peer, ratio }) => ({ series: name, ratio, note: peer.name })),
  }))
