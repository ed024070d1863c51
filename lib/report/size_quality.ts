/** The picture of size against quality: stored bits a weight, perplexity on a logarithmic axis, a line a method. */
import { SlimError } from '../errors.js'
import { type Box, placeNear, spreadOut } from './labels.js'
import { linearScale, logScale } from './scale.js'
import { element, escapeText, FONT_SIZE, svg, text, textWidth } from './svg.js'

export interface SizeQualityPoint {
  /** Points of one series have one colour and, unless `unjoined`, one line. */
  series: string
  storedBitsPerWeight: number
  perplexity: number
  /** Least and greatest of several runs, drawn as a whisker. */
  range?: readonly [number, number]
  /** Written beside the point. */
  label?: string
}

export interface SizeQualityOptions {
  title?: string
  /** What a screen reader says after the title. */
  description?: string
  width?: number
  height?: number
  /** Series whose points are separate things, not settings of one. */
  unjoined?: readonly string[]
  /** A level to compare with, such as the unquantized model's: a line across. */
  reference?: { perplexity: number; label: string }
  /** Worse points are drawn at the upper edge, with their perplexity beside them. */
  maxPerplexity?: number
}

/** Legible on white and on black; told apart also by those who see red and green alike. */
const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#8a7d00', '#56a0d3', '#7f7f7f', '#a3622f']
const MARGIN = { left: 72, right: 16, top: 44, bottom: 52 }
const RADIUS = 4

const number = (value: number, digits: number) =>
  value.toLocaleString('en-US', { maximumFractionDigits: digits })

function requirePositive(parameter: string, value: number): void {
  if (!(Number.isFinite(value) && value > 0))
    throw SlimError.invalidArgument(parameter, 'a finite number above 0', value)
}

function check(points: readonly SizeQualityPoint[], options: SizeQualityOptions): void {
  if (points.length === 0) throw SlimError.invalidArgument('points', 'at least one point', '[]')
  points.forEach((point, i) => {
    for (const key of ['storedBitsPerWeight', 'perplexity'] as const)
      requirePositive(`points[${i}].${key}`, point[key])
    for (const bound of point.range ?? []) requirePositive(`points[${i}].range`, bound)
  })
  if (options.reference) requirePositive('reference.perplexity', options.reference.perplexity)
  if (options.maxPerplexity !== undefined) requirePositive('maxPerplexity', options.maxPerplexity)
}

export function sizeQualitySvg(
  points: readonly SizeQualityPoint[],
  options: SizeQualityOptions = {},
): string {
  check(points, options)
  const {
    width = 860,
    height = 480,
    unjoined = [],
    reference,
    maxPerplexity = Number.POSITIVE_INFINITY,
  } = options
  const names = [...new Set(points.map(({ series }) => series))]
  const labelWidth = Math.max(...names.map((name) => textWidth(name, FONT_SIZE))) + 24
  const plot = {
    x: MARGIN.left,
    y: MARGIN.top,
    width: width - MARGIN.left - MARGIN.right - labelWidth,
    height: height - MARGIN.top - MARGIN.bottom,
  }
  if (plot.width < 100 || plot.height < 100)
    throw SlimError.invalidArgument(
      'width, height',
      'room for a plot of 100 × 100 beside the labels',
      `${width} × ${height}`,
    )
  const [right, bottom] = [plot.x + plot.width, plot.y + plot.height]
  const clipped = (perplexity: number) => Math.min(perplexity, maxPerplexity)
  const x = linearScale(
    points.map((p) => p.storedBitsPerWeight),
    plot.x,
    right,
  )
  const levels = points.flatMap((p) => [p.perplexity, ...(p.range ?? [])]).map(clipped)
  const y = logScale(reference ? [...levels, reference.perplexity] : levels, bottom, plot.y)
  const at = (p: SizeQualityPoint) => [x(p.storedBitsPerWeight), y(clipped(p.perplexity))] as const
  const taken: Box[] = points.map((p) => ({
    x: at(p)[0] - RADIUS,
    y: at(p)[1] - RADIUS,
    width: 2 * RADIUS,
    height: 2 * RADIUS,
  }))

  const axes = [
    ...x.ticks.flatMap((tick) => [
      element('path', { class: 'grid', d: `M${x(tick)} ${plot.y}V${bottom}` }),
      text(number(tick, 3), { x: x(tick), y: bottom + 18, 'text-anchor': 'middle' }),
    ]),
    ...y.ticks.flatMap((tick) => [
      element('path', { class: 'grid', d: `M${plot.x} ${y(tick)}H${right}` }),
      text(number(tick, 3), { x: plot.x - 8, y: y(tick) + 4, 'text-anchor': 'end' }),
    ]),
    element('path', { class: 'axis', d: `M${plot.x} ${plot.y}V${bottom}H${right}` }),
    text('stored bits a weight', { x: plot.x + plot.width / 2, y: height - 12, 'text-anchor': 'middle' }),
    text('perplexity', {
      transform: `translate(18 ${plot.y + plot.height / 2}) rotate(-90)`,
      'text-anchor': 'middle',
    }),
  ]

  const drawReference = () => {
    const level = y(reference!.perplexity)
    const box = { x: plot.x + 6, y: level - 16, width: textWidth(reference!.label, FONT_SIZE), height: 14 }
    taken.push(box)
    return [
      element('path', { class: 'axis', 'stroke-dasharray': '6 4', d: `M${plot.x} ${level}H${right}` }),
      text(reference!.label, { x: box.x, y: level - 5 }),
    ]
  }

  // Its label takes its place before those of the points.
  const level = reference ? drawReference() : []

  const drawPoint = (point: SizeQualityPoint, colour: string) => {
    const [px, py] = at(point)
    const worse = point.perplexity > maxPerplexity
    const what = `${point.series}${point.label ? `, ${point.label}` : ''}: ${number(point.storedBitsPerWeight, 3)} stored bits, perplexity ${number(point.perplexity, 2)}`
    const tip = element('title', {}, escapeText(what))
    const drawn = [
      worse
        ? element(
            'path',
            { class: 'point', d: `M${px - 5} ${py + 4}L${px} ${py - 5}L${px + 5} ${py + 4}Z`, fill: colour },
            tip,
          )
        : element('circle', { class: 'point', cx: px, cy: py, r: RADIUS, fill: colour }, tip),
    ]
    if (point.range) {
      const [low, high] = point.range.map((level) => y(clipped(level)))
      drawn.unshift(
        element('path', { class: 'range', d: `M${px} ${low}V${high}`, stroke: colour, 'stroke-width': 1.5 }),
      )
    }
    const label = [point.label, worse ? number(point.perplexity, 0) : ''].filter(Boolean).join(' ')
    if (label) {
      const box = placeNear([px, py], [textWidth(label, 10), 12], plot, taken)
      taken.push(box)
      drawn.push(text(label, { class: 'small', x: box.x, y: box.y + 10 }))
    }
    return drawn
  }

  const last = names.map((name) =>
    points
      .filter((p) => p.series === name)
      .reduce((a, b) => (b.storedBitsPerWeight >= a.storedBitsPerWeight ? b : a)),
  )
  const heights = spreadOut(
    last.map((p) => at(p)[1]),
    FONT_SIZE + 4,
    plot.y + 6,
    bottom - 6,
  )
  const series = names.map((name, i) => {
    const colour = COLOURS[i % COLOURS.length]!
    const own = points
      .filter((p) => p.series === name)
      .sort((a, b) => a.storedBitsPerWeight - b.storedBitsPerWeight)
    const corners = own.map((p) =>
      at(p)
        .map((v) => v.toFixed(2))
        .join(' '),
    )
    const [endX, endY] = at(last[i]!)
    return element(
      'g',
      { class: 'series' },
      ...(own.length > 1 && !unjoined.includes(name)
        ? [element('path', { d: `M${corners.join('L')}`, fill: 'none', stroke: colour, 'stroke-width': 2 })]
        : []),
      element('path', {
        class: 'leader',
        d: `M${(endX + 6).toFixed(2)} ${endY.toFixed(2)}L${right + 14} ${heights[i]!.toFixed(2)}`,
      }),
      ...own.flatMap((point) => drawPoint(point, colour)),
      text(name, {
        class: 'name',
        x: right + 18,
        y: heights[i]! + 4,
        style: `fill:${colour};font-weight:600`,
      }),
    )
  })
  const { title = 'Size against quality' } = options
  const description =
    options.description ??
    `Perplexity (logarithmic) over stored bits a weight: ${names.join(', ')}. Lower and further left is better.`
  return svg({ width, height, title, description }, ...axes, ...level, ...series)
}
