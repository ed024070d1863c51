// Predicted times of packed products on an H200: the roofline of roofline.mjs over the counts of test/cuda/metrics.json.
// Nothing here was measured on a GPU.
//   node bench/gpu/predict.mjs [--write]
// --write puts the text between the two markers of docs/benchmarks.md.
import './errors.mjs'
import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { here } from '../native_module.mjs'
import {
  GOAL_MIX,
  GOALS,
  GROUP_SIZE,
  MIXES,
  markdownTable,
  SHAPES,
  shapeName,
  storedBits,
  TOKENS,
  tokensName,
} from './cases.mjs'
import { H200, halfTime, packedTime } from './roofline.mjs'

const { values: flags } = parseArgs({ options: { write: { type: 'boolean', default: false } } })
const root = path.dirname(here)
const golden = JSON.parse(readFileSync(path.join(root, 'test', 'cuda', 'metrics.json'), 'utf8'))

/** Counted rows of weights named so, by tokens. */
function countsOf(name) {
  const rows = Object.entries(golden).flatMap(([key, cost]) => {
    const [, weights, groupSize, tokens] = key.match(/^(.*), groups of (\d+), (\d+) tokens$/) ?? []
    return weights === name && Number(groupSize) === GROUP_SIZE ? [{ tokens: Number(tokens), ...cost }] : []
  })
  if (rows.length === 0) throw new Error(`test/cuda/metrics.json has no counts of ${name}`)
  return rows.sort((a, b) => a.tokens - b.tokens)
}

/** ptxas folds most moves and conversions into other instructions. */
const folded = ({ instructions, byClass }) => instructions - (byClass.move ?? 0) - (byClass.conversion ?? 0)

/**
 * Instructions a weight of a product with so many tokens: those counted with as many, else with the next more; beyond
 * the most that were counted, as many passes over the weights as it takes.
 */
function instructionsOf(name, tokens, count) {
  const rows = countsOf(name)
  const row = rows.find((counted) => counted.tokens >= tokens) ?? rows.at(-1)
  return { counted: row.tokens === tokens, instructions: count(row) * Math.ceil(tokens / row.tokens) }
}

function predict(mix, tokens, weights, count = ({ instructions }) => instructions) {
  const { counted, instructions } = instructionsOf(mix.name, tokens, count)
  const ours = packedTime({ weights, tokens, instructions, bits: storedBits(mix) })
  return { ...ours, counted, ratio: halfTime({ weights, tokens }).seconds / ours.seconds }
}

const ratioTable = () =>
  markdownTable(
    ['weights', ...TOKENS.map(tokensName)],
    MIXES.map((mix) => [
      mix.name,
      ...TOKENS.map((tokens) => {
        const all = predict(mix, tokens, 1)
        const least = predict(mix, tokens, 1, folded)
        const [ratio, best] = [all.ratio.toFixed(2), least.ratio.toFixed(2)]
        const range = ratio === best ? ratio : `${ratio} – ${best}`
        return `${range} ${all.limit}${all.counted ? '' : ' *'}`
      }),
    ]),
  )

const microseconds = (seconds) => (seconds * 1e6).toFixed(seconds < 1e-5 ? 1 : 0)

const timeTable = () =>
  markdownTable(
    ['inputs × outputs', 'weights', ...TOKENS.map(tokensName)],
    SHAPES.flatMap(([cols, rows]) => {
      const weights = cols * rows
      const half = TOKENS.map((tokens) => microseconds(halfTime({ weights, tokens }).seconds))
      return [
        ...MIXES.map((mix) => [
          shapeName([cols, rows]),
          mix.name,
          ...TOKENS.map((tokens) => microseconds(predict(mix, tokens, weights).seconds)),
        ]),
        [shapeName([cols, rows]), 'float16', ...half],
      ]
    }),
  )

const countTable = () =>
  markdownTable(
    ['weights', 'tokens', 'instructions', 'without moves and conversions', 'wavefronts', 'sectors'],
    ['2 bits', '3 bits', ...MIXES.map(({ name }) => name)].flatMap((name) =>
      countsOf(name).map((row) => [
        name,
        row.tokens,
        row.instructions.toFixed(2),
        folded(row).toFixed(2),
        row.wavefronts.toFixed(3),
        row.sectors.toFixed(3),
      ]),
    ),
  )

function goalTable() {
  const few = (name) => Math.max(...countsOf(name).flatMap((row) => (row.tokens <= 8 ? [folded(row)] : [])))
  const all = Object.values(golden)
  const worst = (figure) => Math.max(...all.map((cost) => cost[figure]))
  const kept = [
    ['instructions a weight, 2 bits, up to 8 tokens', 1.2, few('2 bits'), 'without moves and conversions'],
    ['instructions a weight, 3 bits, up to 8 tokens', 1.8, few('3 bits'), 'without moves and conversions'],
    ['shared-memory wavefronts over the fewest', 1, worst('wavefronts'), 'the worst of all rows'],
    ['sectors of global memory over the fewest', 1, worst('sectors'), 'the worst of all rows'],
  ].map(([name, most, found, note]) => [
    name,
    `≤ ${most}`,
    `${found.toFixed(3)}, ${note}`,
    found <= most ? 'met' : `missed by ${(100 * (found / most - 1)).toFixed(1)} %`,
  ])
  const mix = MIXES.find(({ name }) => name === GOAL_MIX)
  const predicted = GOALS.map(({ tokens, shape, least }) => {
    const [all, best] = [predict(mix, tokens, 1), predict(mix, tokens, 1, folded)]
    const verdict =
      all.ratio >= least
        ? 'predicted to be met'
        : best.ratio >= least
          ? 'predicted to be met only if moves and conversions cost nothing'
          : 'predicted to be missed'
    return [
      `times faster than float16, ${GOAL_MIX}, ${tokensName(tokens)}${shape ? `, ${shapeName(shape)}` : ''}`,
      `≥ ${least}`,
      `${all.ratio.toFixed(2)} – ${best.ratio.toFixed(2)}, predicted`,
      verdict,
    ]
  })
  return markdownTable(['goal', '', 'counted, or predicted', ''], [...kept, ...predicted])
}

const mostCounted = Math.max(...MIXES.flatMap(({ name }) => countsOf(name).map(({ tokens }) => tokens)))
const slots = H200.multiprocessors * H200.schedulers
const text = `Nothing here was measured on a GPU: \`node bench/gpu/predict.mjs\` makes this section of the counts in
test/cuda/metrics.json (groups of ${GROUP_SIZE}; the 2-bit mix is ${MIXES[0].widths.join(', ')} bits, the 3-bit mix ${MIXES[1].widths.join(', ')}). The predicted time is the largest of

- *issue*: PTX instructions of a lane a weight ÷ 32 × weights ÷ (${slots} issue slots × ${H200.hertz / 1e9} GHz);
- *bytes*: stored bytes of the weights ÷ ${H200.bytesPerSecond / 1e12} TB/s;
- *matrix*: 2 × weights × tokens (whole eights) ÷ ${H200.mmaSyncPerSecond / 1e12} TFLOP/s, what \`mma.sync\` reaches on Hopper: 62.9 % of its
  tensor cores' nominal rate, by the microbenchmarks of arXiv 2402.13499;

and float16's the larger of its weights' bytes ÷ ${H200.bytesPerSecond / 1e12} TB/s and its operations ÷ ${H200.operationsPerSecond / 1e12} TFLOP/s, cuBLAS's rate by \`wgmma\`: where \`mma.sync\`
limits ours and operations limit float16, the ratio is at most ${(H200.mmaSyncPerSecond / H200.operationsPerSecond).toFixed(2)}. Every term is in proportion to the
weights, so that the predicted ratio is one for all shapes.

Predicted ratio of float16's time to ours, and what limits ours. The first figure counts all PTX instructions, the second leaves out
moves and conversions, most of which ptxas folds. \\*: not counted at this number of tokens, but at the next more; beyond
${mostCounted}, as many passes over the weights as it takes.

${ratioTable()}

Predicted microseconds, all PTX instructions counted:

${timeTable()}

Counts, wavefronts and sectors over the fewest possible:

${countTable()}

${goalTable()}

What the model leaves out, so that a GPU will be slower than predicted: the latency of memory and of dependent instructions, launches and
the two kernels that prepare activations, waves of CTAs that do not fill the device and the sums of split products, reads of
activations and writes of results. PTX is not
SASS: ptxas adds and removes instructions, and some take more than one issue slot. cuBLAS does not reach its
own roofline either, which is in our favour.
`

const [BEGIN, END] = ['<!-- predicted: node bench/gpu/predict.mjs --write -->', '<!-- end of predicted -->']
if (flags.write) {
  const file = path.join(root, 'docs', 'benchmarks.md')
  const page = readFileSync(file, 'utf8')
  const [begin, end] = [page.indexOf(BEGIN), page.indexOf(END)]
  if (begin < 0 || end < begin) throw new Error(`${file} has no markers ${BEGIN} … ${END}`)
  writeFileSync(file, `${page.slice(0, begin + BEGIN.length)}\n${text}${page.slice(end)}`)
} else process.stdout.write(text)
