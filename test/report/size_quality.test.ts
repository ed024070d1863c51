import { describe, expect, it } from 'vitest'
import {
  type SizeQualityOptions,
  type SizeQualityPoint,
  sizeQualitySvg,
} from '../../lib/report/size_quality.js'
import { descendants, parseXml, type XmlElement } from '../support/xml.js'

const POINTS: SizeQualityPoint[] = [
  { series: 'slim', storedBitsPerWeight: 3.28, perplexity: 39.5, range: [39.1, 40.2] },
  { series: 'slim', storedBitsPerWeight: 2.28, perplexity: 85.2 },
  { series: 'gptq', storedBitsPerWeight: 2.28, perplexity: 12706 },
  { series: 'gptq', storedBitsPerWeight: 3.28, perplexity: 77.2 },
  { series: 'llama.cpp', storedBitsPerWeight: 4.23, perplexity: 50.1, label: 'Q2_K' },
  { series: 'llama.cpp', storedBitsPerWeight: 4.234, perplexity: 50.3, label: 'Q3_K_S' },
  { series: 'llama.cpp', storedBitsPerWeight: 4.5, perplexity: 45.3, label: 'Q4_0' },
]

const draw = (points: SizeQualityPoint[], options?: SizeQualityOptions) =>
  descendants(parseXml(sizeQualitySvg(points, options)))
const ofClass = (all: XmlElement[], name: string) =>
  all.filter(({ attributes }) => attributes.class?.split(' ').includes(name))
const texts = (all: XmlElement[]) => all.filter(({ name }) => name === 'text').map(({ text }) => text)
const numbersIn = (path: string) => path.match(/-?[\d.]+/g)!.map(Number)

/** The corners of the plot: the axis runs down and then right. */
function plotOf(all: XmlElement[]) {
  const axis = ofClass(all, 'axis').map(({ attributes }) => attributes.d!)
  const [left, top, bottom, right] = numbersIn(axis.find((d) => d.includes('V'))!) as [
    number,
    number,
    number,
    number,
  ]
  return { left, top, bottom, right }
}

/** Where a point was drawn: the centre of its circle, or the tip of its triangle. */
function centre({ name, attributes }: XmlElement): [number, number] {
  if (name === 'circle') return [Number(attributes.cx), Number(attributes.cy)]
  const [, , x, y] = numbersIn(attributes.d!)
  return [x!, y! + 5]
}

describe('sizeQualitySvg', () => {
  it('draws every point inside the plot, and says what it is', () => {
    for (const options of [{}, { width: 500, height: 300 }, { maxPerplexity: 60 }]) {
      const all = draw(POINTS, options)
      const { left, top, bottom, right } = plotOf(all)
      const points = ofClass(all, 'point')
      expect(points).toHaveLength(POINTS.length)
      for (const point of points) {
        const [x, y] = centre(point)
        expect(x).toBeGreaterThan(left)
        expect(x).toBeLessThan(right)
        expect(y).toBeGreaterThan(top)
        expect(y).toBeLessThan(bottom)
      }
      const tips = points.map(({ children }) => children[0]!.text)
      expect(tips).toContain('llama.cpp, Q2_K: 4.23 stored bits, perplexity 50.1')
      expect(tips).toContain('gptq: 2.28 stored bits, perplexity 12,706')
    }
  })

  it('has a linear axis of bits and a logarithmic one of perplexity', () => {
    const series = [1, 2, 4].map((bits) => ({
      series: 'a',
      storedBitsPerWeight: bits,
      perplexity: 10 ** bits,
    }))
    const [a, b, c] = ofClass(draw(series), 'point').map(centre) as [number, number][]
    expect((c![0] - b![0]) / (b![0] - a![0])).toBeCloseTo(2, 2)
    expect((c![1] - b![1]) / (b![1] - a![1])).toBeCloseTo(2, 2)
    expect(c![1]).toBeLessThan(a![1])
    const labels = texts(draw(series))
    for (const tick of ['10', '100', '1,000', '10,000', '2.5']) expect(labels).toContain(tick)
  })

  it('names every series once, in the colour of its points, and labels do not cover each other', () => {
    const all = draw(POINTS)
    const names = ofClass(all, 'name')
    expect(names.map(({ text }) => text)).toEqual(['slim', 'gptq', 'llama.cpp'])
    const groups = ofClass(all, 'series')
    groups.forEach((group, i) => {
      const inside = descendants(group)
      const colours = new Set(ofClass(inside, 'point').map(({ attributes }) => attributes.fill))
      expect(colours.size).toBe(1)
      expect(names[i]!.attributes.style).toContain([...colours][0])
    })
    const heights = names.map(({ attributes }) => Number(attributes.y)).sort((a, b) => a - b)
    for (let i = 1; i < heights.length; i++) expect(heights[i]! - heights[i - 1]!).toBeGreaterThanOrEqual(12)
    const labels = ofClass(all, 'small').filter(({ text }) => /^Q/.test(text))
    expect(labels.map(({ text }) => text)).toEqual(['Q2_K', 'Q3_K_S', 'Q4_0'])
    const boxes = labels.map(({ attributes, text }) => ({
      x: Number(attributes.x),
      y: Number(attributes.y),
      width: text.length * 6,
    }))
    boxes.forEach((a, i) => {
      for (const b of boxes.slice(i + 1))
        expect(a.x + a.width <= b.x || b.x + b.width <= a.x || Math.abs(a.y - b.y) >= 12).toBe(true)
    })
  })

  it('joins the points of a series in the order of their size, unless they are separate things', () => {
    const lines = (options?: SizeQualityOptions) =>
      draw(POINTS, options).filter(({ attributes }) => attributes['stroke-width'] === '2')
    expect(lines()).toHaveLength(3)
    expect(lines({ unjoined: ['llama.cpp'] })).toHaveLength(2)
    const xs = numbersIn(lines()[0]!.attributes.d!).filter((_, i) => i % 2 === 0)
    expect(xs).toEqual([...xs].sort((a, b) => a - b))
  })

  it('draws whiskers, the reference, and what is beyond the greatest perplexity at the edge', () => {
    const all = draw(POINTS, { maxPerplexity: 100, reference: { perplexity: 30, label: 'unquantized 30' } })
    expect(ofClass(all, 'range')).toHaveLength(1)
    expect(texts(all)).toContain('unquantized 30')
    const worse = ofClass(all, 'point').filter(({ name }) => name === 'path')
    expect(worse).toHaveLength(1)
    expect(texts(all)).toContain('12,706')
    expect(Math.min(...ofClass(all, 'point').map((p) => centre(p)[1]))).toBe(centre(worse[0]!)[1])
  })

  it('escapes what it is given, and can be read out', () => {
    const name = `<&>"' \u0000\ud800 ${'é'}`
    const drawn = sizeQualitySvg([{ series: name, storedBitsPerWeight: 2, perplexity: 5, label: '</svg>' }], {
      title: '<script>alert(1)</script>',
      description: 'a & b',
    })
    expect(drawn).not.toContain('<script')
    const root = parseXml(drawn)
    const all = descendants(root)
    expect(ofClass(all, 'name')[0]!.text).toBe(`<&>"' \ufffd\ufffd é`)
    expect(texts(all)).toContain('</svg>')
    expect(root.attributes).toMatchObject({ role: 'img', 'aria-labelledby': 'title description' })
    const byId = (id: string) => all.find(({ attributes }) => attributes.id === id)
    expect(byId('title')).toMatchObject({ name: 'title', text: '<script>alert(1)</script>' })
    expect(byId('description')).toMatchObject({ name: 'desc', text: 'a & b' })
  })

  it('draws one point, and equal ones', () => {
    for (const count of [1, 3]) {
      const same = Array(count).fill({ series: 'a', storedBitsPerWeight: 2, perplexity: 50 })
      for (const point of ofClass(draw(same), 'point'))
        for (const v of centre(point)) expect(v).toBeGreaterThan(0)
    }
  })

  it.each([
    [[], {}, 'points'],
    [[{ series: 'a', storedBitsPerWeight: 2, perplexity: Number.NaN }], {}, 'points[0].perplexity'],
    [
      [POINTS[0]!, { series: 'a', storedBitsPerWeight: 0, perplexity: 3 }],
      {},
      'points[1].storedBitsPerWeight',
    ],
    [[{ series: 'a', storedBitsPerWeight: 2, perplexity: 9, range: [-1, 9] }], {}, 'points[0].range'],
    [POINTS, { reference: { perplexity: 0, label: '' } }, 'reference.perplexity'],
    [POINTS, { maxPerplexity: -1 }, 'maxPerplexity'],
    [POINTS, { width: 120 }, 'width, height'],
  ] as [SizeQualityPoint[], SizeQualityOptions, string][])(
    'refuses %j with %j',
    (points, options, parameter) => {
      expect(() => sizeQualitySvg(points, options)).toThrow(
        expect.objectContaining({ code: 'SLIM_INVALID_ARGUMENT', parameter }),
      )
    },
  )
})
