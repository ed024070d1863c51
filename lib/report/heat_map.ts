/** One number a linear layer of every block, as a field of coloured cells: layers down, blocks across. */
import { SlimError } from '../errors.js'
import { element, escapeText, svg, text, textWidth } from './svg.js'

export interface HeatMapCell {
  /** Of the tensor: its block's number and its name in the block are read from it. */
  name: string
  /** Null: not known, the cell stays empty. */
  value: number | null
}

export interface HeatMapOptions {
  title: string
  description: string
  /** How the values are written. */
  format: (value: number) => string
}

/** Dark to light, about equal steps of lightness: readable without colour too. */
const RAMP = [
  [48, 18, 88],
  [52, 88, 140],
  [32, 145, 140],
  [94, 201, 98],
  [250, 230, 60],
] as const
const [MIN_CELL, MAX_CELL, ROW, TOP, FIELD_WIDTH] = [6, 26, 22, 44, 800]
const LEGEND_STEPS = 24

/** RGB at t of the ramp, 0 to 1. */
function colourAt(t: number): readonly number[] {
  const position = Math.min(Math.max(t, 0), 1) * (RAMP.length - 1)
  const i = Math.min(Math.floor(position), RAMP.length - 2)
  return RAMP[i]!.map((c, channel) => Math.round(c + (RAMP[i + 1]![channel]! - c) * (position - i)))
}

const css = (rgb: readonly number[]) => `rgb(${rgb.join(',')})`
const isLight = ([r, g, b]: readonly number[]) => 0.3 * r! + 0.6 * g! + 0.1 * b! > 128

/** "model.layers.3.self_attn.q_proj.weight" → block 3, "self_attn.q_proj". */
function place(name: string): { block: number; layer: string } {
  const match = /(?:^|\.)(\d+)\.(.+?)(?:\.weight)?$/.exec(name)
  if (!match) throw SlimError.invalidArgument('layers[].name', 'a name with the number of its block', name)
  return { block: Number(match[1]), layer: match[2]! }
}

export function heatMapSvg(
  cells: readonly HeatMapCell[],
  { title, description, format }: HeatMapOptions,
): string {
  if (cells.length === 0) throw SlimError.invalidArgument('layers', 'at least one layer', '[]')
  const placed = cells.map((cell) => ({ ...cell, ...place(cell.name) }))
  const layers = [...new Set(placed.map(({ layer }) => layer))]
  const blocks = [...new Set(placed.map(({ block }) => block))].sort((a, b) => a - b)
  const values = cells.flatMap(({ value }) => (value === null ? [] : [value]))
  const [low, high] = [Math.min(...values), Math.max(...values)]
  const shade = (value: number) => colourAt(high > low ? (value - low) / (high - low) : 0.5)
  const left = Math.max(...layers.map((layer) => textWidth(layer, 12))) + 28
  const cellWidth = Math.min(Math.max(Math.floor(FIELD_WIDTH / blocks.length), MIN_CELL), MAX_CELL)
  const numbered = values.every((value) => textWidth(format(value), 10) < cellWidth)
  const fieldBottom = TOP + layers.length * ROW
  const labelled = Math.ceil(24 / cellWidth)

  const field = placed.map(({ name, value, block, layer }) => {
    const [x, y] = [left + blocks.indexOf(block) * cellWidth, TOP + layers.indexOf(layer) * ROW]
    const box = { class: 'cell', x, y, width: cellWidth - 1, height: ROW - 1 }
    const tip = element('title', {}, escapeText(`${name}: ${value === null ? 'not known' : format(value)}`))
    if (value === null) return element('rect', { ...box, class: 'cell grid' }, tip)
    const colour = shade(value)
    const cell = element('rect', { ...box, fill: css(colour) }, tip)
    if (!numbered) return cell
    const ink = isLight(colour) ? '#000' : '#fff'
    const middle = { x: x + (cellWidth - 1) / 2, y: y + 14, 'text-anchor': 'middle' }
    return (
      cell +
      text(format(value), { ...middle, class: 'small', style: `fill:${ink}`, 'pointer-events': 'none' })
    )
  })
  const rows = layers.map((layer, i) =>
    text(layer, { x: left - 8, y: TOP + i * ROW + 15, 'text-anchor': 'end' }),
  )
  const columns = blocks
    .filter((_, i) => i % labelled === 0)
    .map((block) =>
      text(String(block), {
        class: 'small',
        x: left + (blocks.indexOf(block) + 0.5) * cellWidth,
        y: fieldBottom + 13,
        'text-anchor': 'middle',
      }),
    )
  const legendTop = fieldBottom + 30
  const legend = values.length
    ? [
        ...Array.from({ length: LEGEND_STEPS }, (_, i) =>
          element('rect', {
            class: 'legend',
            x: left + i * 6,
            y: legendTop,
            width: 6,
            height: 10,
            fill: css(colourAt(high > low ? i / (LEGEND_STEPS - 1) : 0.5)),
          }),
        ),
        text(format(low), { class: 'small', x: left - 6, y: legendTop + 9, 'text-anchor': 'end' }),
        text(format(high), { class: 'small', x: left + LEGEND_STEPS * 6 + 6, y: legendTop + 9 }),
      ]
    : []
  const width = Math.max(left + blocks.length * cellWidth + 16, textWidth(title, 15) + 32)
  return svg({ width, height: legendTop + 26, title, description }, ...field, ...rows, ...columns, ...legend)
}
