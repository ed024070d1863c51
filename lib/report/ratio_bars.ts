/** The picture of ratios to a yardstick: groups of horizontal bars, a line at 1. */
import { SlimError } from '../errors.js'
import { linearScale } from './scale.js'
import { element, escapeText, FONT_SIZE, svg, text, textWidth } from './svg.js'

export interface RatioGroup {
  label: string
  bars: readonly RatioBar[]
}

export interface RatioBar {
  /** Bars of one series have one colour. */
  series: string
  ratio: number
  /** Written behind the ratio: what it is a ratio to. */
  note?: string
}

export interface RatioBarsOptions {
  title: string
  /** What the axis shows, for example "time over the peer's". */
  axis: string
  /** What a screen reader says after the title. */
  description?: string
  width?: number
}

/** Legible on white and on black; told apart also by those who see red and green alike. */
const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#8a7d00', '#56a0d3']
const BAR_HEIGHT = 13
const GROUP_GAP = 12
const MARGIN = { left: 16, right: 16, top: 66, bottom: 48 }

function check(groups: readonly RatioGroup[]): void {
  if (groups.length === 0) throw SlimError.invalidArgument('groups', 'at least one group', '[]')
  groups.forEach(({ bars }, g) => {
    if (bars.length === 0) throw SlimError.invalidArgument(`groups[${g}].bars`, 'at least one bar', '[]')
    bars.forEach(({ ratio }, b) => {
      if (!(Number.isFinite(ratio) && ratio > 0))
        throw SlimError.invalidArgument(`groups[${g}].bars[${b}].ratio`, 'a finite number above 0', ratio)
    })
  })
}

export function ratioBarsSvg(groups: readonly RatioGroup[], options: RatioBarsOptions): string {
  check(groups)
  const { title, axis, width = 860 } = options
  const bars = groups.flatMap((group) => group.bars)
  const series = [...new Set(bars.map((bar) => bar.series))]
  const behind = (bar: RatioBar) => [bar.ratio.toFixed(2), bar.note].filter(Boolean).join(' × ')
  const labelWidth = Math.max(...groups.map(({ label }) => textWidth(label, FONT_SIZE))) + 8
  const noteWidth = Math.max(...bars.map((bar) => textWidth(behind(bar), 10))) + 8
  const left = MARGIN.left + labelWidth
  const right = width - MARGIN.right - noteWidth
  if (right - left < 100)
    throw SlimError.invalidArgument('width', 'room for bars of 100 beside the labels', width)

  const x = linearScale([0, 1, ...bars.map(({ ratio }) => ratio)], left, right)
  let y = MARGIN.top
  const drawn = groups.flatMap(({ label, bars }) => {
    const height = bars.length * BAR_HEIGHT
    const name = text(label, { x: left - 8, y: y + height / 2 + 4, 'text-anchor': 'end' })
    const rows = bars.flatMap((bar) => {
      const tip = `${label}, ${bar.series}: ${behind(bar)}`
      const rectangle = element(
        'rect',
        {
          class: 'bar',
          x: x(0),
          y: y + 1,
          width: x(bar.ratio) - x(0),
          height: BAR_HEIGHT - 2,
          fill: COLOURS[series.indexOf(bar.series) % COLOURS.length]!,
        },
        element('title', {}, escapeText(tip)),
      )
      const value = text(behind(bar), { class: 'small', x: x(bar.ratio) + 4, y: y + BAR_HEIGHT - 3 })
      y += BAR_HEIGHT
      return [rectangle, value]
    })
    y += GROUP_GAP
    return [name, ...rows]
  })
  const bottom = y
  const axes = [
    ...x.ticks
      .filter((tick) => tick >= 0)
      .flatMap((tick) => [
        element('path', { class: 'grid', d: `M${x(tick)} ${MARGIN.top}V${bottom}` }),
        text(String(tick), { x: x(tick), y: bottom + 16, 'text-anchor': 'middle' }),
      ]),
    element('path', { class: 'axis', 'stroke-dasharray': '6 4', d: `M${x(1)} ${MARGIN.top}V${bottom}` }),
    element('path', { class: 'axis', d: `M${x(0)} ${MARGIN.top}V${bottom}` }),
    text(axis, { x: (left + right) / 2, y: bottom + 36, 'text-anchor': 'middle' }),
  ]
  let legendX = MARGIN.left
  const legend = series.flatMap((name, i) => {
    const at = legendX
    legendX += textWidth(name, FONT_SIZE) + 34
    return [
      element('rect', { x: at, y: 38, width: 12, height: 12, fill: COLOURS[i % COLOURS.length]! }),
      text(name, { class: 'name', x: at + 18, y: 49 }),
    ]
  })
  const description = options.description ?? `${axis}, of ${series.join(', ')}.`
  return svg({ width, height: bottom + MARGIN.bottom, title, description }, ...axes, ...legend, ...drawn)
}
