import { describe, expect, it } from 'vitest'
import { type RatioBarsOptions, type RatioGroup, ratioBarsSvg } from '../../lib/report/ratio_bars.js'
import { descendants, parseXml } from '../support/xml.js'

const GROUPS: RatioGroup[] = [
  {
    label: '4096×4096, 1 token',
    bars: [
      { series: '2-bit', ratio: 0.5, note: 'Q2_K' },
      { series: '3-bit', ratio: 0.25 },
    ],
  },
  { label: 'a <small> & odd one', bars: [{ series: '2-bit', ratio: 2 }] },
]
const OPTIONS: RatioBarsOptions = { title: 'Ratios', axis: 'time over theirs' }

const draw = (groups = GROUPS, options = OPTIONS) => descendants(parseXml(ratioBarsSvg(groups, options)))

describe('ratioBarsSvg', () => {
  const all = draw()
  const bars = all.filter(({ attributes }) => attributes.class === 'bar')
  const edges = (i: number) => {
    const { x, width } = bars[i]!.attributes
    return [Number(x), Number(x) + Number(width)] as const
  }

  it('draws a bar for each ratio, in proportion, from one line', () => {
    expect(bars).toHaveLength(3)
    const [start, half] = edges(0)
    expect(edges(1)[0]).toBe(start)
    expect(edges(1)[1] - start).toBeCloseTo((half - start) / 2, 1)
    expect(edges(2)[1] - start).toBeCloseTo((half - start) * 4, 1)
  })

  it('marks a ratio of 1', () => {
    const mark = all.find(({ attributes }) => attributes['stroke-dasharray'])!
    const [start, half] = edges(0)
    expect(Number(/^M([\d.]+)/.exec(mark.attributes.d!)![1])).toBeCloseTo(start + 2 * (half - start), 1)
  })

  it('gives a series one colour and one name, and every bar its number', () => {
    const fills = bars.map(({ attributes }) => attributes.fill)
    expect(fills[0]).toBe(fills[2])
    expect(fills[0]).not.toBe(fills[1])
    const texts = all.filter(({ name }) => name === 'text').map(({ text }) => text)
    expect(texts.filter((text) => text === '2-bit')).toHaveLength(1)
    expect(texts).toEqual(
      expect.arrayContaining(['0.50 × Q2_K', '0.25', '2.00', 'a <small> & odd one', 'time over theirs']),
    )
  })

  it('does not let bars overlap', () => {
    const tops = bars.map(({ attributes }) => [Number(attributes.y), Number(attributes.height)] as const)
    for (let i = 1; i < tops.length; i++)
      expect(tops[i]![0]).toBeGreaterThanOrEqual(tops[i - 1]![0] + tops[i - 1]![1])
  })

  it.each<[string, RatioGroup[], RatioBarsOptions]>([
    ['groups', [], OPTIONS],
    ['groups[0].bars', [{ label: 'none', bars: [] }], OPTIONS],
    ['groups[0].bars[0].ratio', [{ label: 'zero', bars: [{ series: 'a', ratio: 0 }] }], OPTIONS],
    ['groups[0].bars[0].ratio', [{ label: 'NaN', bars: [{ series: 'a', ratio: Number.NaN }] }], OPTIONS],
    ['width', GROUPS, { ...OPTIONS, width: 200 }],
  ])('refuses wrong %s', (parameter, groups, options) => {
    expect(() => draw(groups, options)).toThrow(
      expect.objectContaining({ code: 'SLIM_INVALID_ARGUMENT', parameter }),
    )
  })
})
