// The picture of size against quality from measured rows.
//   node bench/report.mjs ROWS.json… [--out docs/size-quality.svg] [--original 30.05] [--max-perplexity 700] [--title TEXT]
// Rows are a JSON array, or one JSON object a line:
//   { series, budget, storedBitsPerWeight, fileBytes, perplexity, kl, agreement, seconds, seed, label? }
// `series` is a method; `budget` the bits asked for, null where there is none; `seed` of the calibration, or null.
// Rows that differ in their seed only are one point, at the mean, with a whisker from the least to the greatest.
// `label` names a point of a series whose points are separate things: such a series gets no line.
import { readFileSync, writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { sizeQualitySvg } from '../dist/index.js'

const { values: flags, positionals: files } = parseArgs({
  allowPositionals: true,
  options: {
    out: { type: 'string', default: 'docs/size-quality.svg' },
    original: { type: 'string' },
    'max-perplexity': { type: 'string' },
    title: { type: 'string', default: 'Size against quality' },
  },
})
if (files.length === 0) throw new Error('Files of rows are needed: node bench/report.mjs ROWS.json…')

function readRows(file) {
  const text = readFileSync(file, 'utf8').trim()
  const rows = text.startsWith('[') ? JSON.parse(text) : text.split('\n').map((line) => JSON.parse(line))
  for (const row of rows)
    for (const key of ['series', 'storedBitsPerWeight', 'perplexity'])
      if (!row[key]) throw new Error(`${file}: ${key} is missing: ${JSON.stringify(row)}`)
  return rows
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length
const rows = files.flatMap(readRows)
const groups = new Map()
for (const row of rows) {
  const key = JSON.stringify([row.series, row.budget, row.label])
  groups.set(key, [...(groups.get(key) ?? []), row])
}

const points = [...groups.values()].map((runs) => {
  const perplexities = runs.map(({ perplexity }) => perplexity)
  return {
    series: runs[0].series,
    label: runs[0].label,
    storedBitsPerWeight: mean(runs.map(({ storedBitsPerWeight }) => storedBitsPerWeight)),
    perplexity: mean(perplexities),
    range: runs.length > 1 ? [Math.min(...perplexities), Math.max(...perplexities)] : undefined,
  }
})
const options = {
  title: flags.title,
  unjoined: points.filter(({ label }) => label).map(({ series }) => series),
}
if (flags.original)
  options.reference = { perplexity: Number(flags.original), label: `unquantized ${flags.original}` }
if (flags['max-perplexity']) options.maxPerplexity = Number(flags['max-perplexity'])
writeFileSync(flags.out, sizeQualitySvg(points, options))
console.error(`${flags.out}: ${points.length} points of ${rows.length} rows`)
