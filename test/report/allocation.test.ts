import { describe, expect, it } from 'vitest'
import type { LayerReport } from '../../lib/packed/manifest.js'
import { allocationSvg, errorSvg } from '../../lib/report/allocation.js'
import { descendants, parseXml, type XmlElement } from '../support/xml.js'

const layer = (name: string, groupBits: number[], relativeError: number | null = 0.1): LayerReport => ({
  ...{ name, rows: 8, cols: 160, groupSize: 64, groupBits, storedBytes: 1, relativeError },
  ...{ damping: null, salienceDamping: null },
})

const LAYERS = [
  layer('model.layers.10.mlp.down_proj', [3, 3, 3], null),
  layer('model.layers.2.self_attn.q_proj', [2, 2, 2], 0.5),
  layer('model.layers.2.mlp.down_proj', [1, 2, 4], 0.25),
]

const cellsOf = (all: XmlElement[]) => all.filter(({ attributes }) => attributes.class?.startsWith('cell'))
const read = (source: string) => descendants(parseXml(source))
const texts = (all: XmlElement[]) => all.filter(({ name }) => name === 'text').map(({ text }) => text)

describe('allocationSvg', () => {
  it('puts a cell of the mean bits where layer and block meet', () => {
    const all = read(allocationSvg({ layers: LAYERS, storedBitsPerWeight: 2.276 }))
    const cells = cellsOf(all)
    // 64, 64 and 32 columns: (1·64 + 2·64 + 4·32) / 160.
    expect(cells.map(({ children }) => children[0]!.text)).toEqual([
      'model.layers.10.mlp.down_proj: 3.0',
      'model.layers.2.self_attn.q_proj: 2.0',
      'model.layers.2.mlp.down_proj: 2.0',
    ])
    const [down10, q2, down2] = cells.map(({ attributes }) => [Number(attributes.x), Number(attributes.y)])
    expect(down10![1]).toBe(down2![1])
    expect(q2![0]).toBe(down2![0])
    expect(down10![0]).toBeGreaterThan(down2![0]!)
    expect(q2![1]).toBeGreaterThan(down2![1]!)
    expect(cells[1]!.attributes.fill).toBe(cells[2]!.attributes.fill)
    expect(cells[0]!.attributes.fill).not.toBe(cells[1]!.attributes.fill)
    expect(texts(all)).toEqual(
      expect.arrayContaining(['mlp.down_proj', 'self_attn.q_proj', '2', '10', '3.0']),
    )
    expect(all[0]!.attributes).toMatchObject({ role: 'img' })
    expect(all.find(({ name }) => name === 'title')!.text).toContain('2.28 stored bits')
  })

  it('stays within its width for many blocks, and for one value', () => {
    for (const blocks of [1, 30, 126, 400]) {
      const layers = Array.from({ length: blocks }, (_, b) =>
        layer(`model.layers.${b}.mlp.up_proj`, [2, 2, 2]),
      )
      const root = parseXml(allocationSvg({ layers, storedBitsPerWeight: 2 }))
      const width = Number(root.attributes.width)
      const cells = cellsOf(descendants(root))
      expect(cells).toHaveLength(blocks)
      for (const { attributes } of cells)
        expect(Number(attributes.x) + Number(attributes.width)).toBeLessThanOrEqual(width)
      expect(JSON.stringify(root)).not.toContain('NaN')
    }
  })

  it('escapes names, and refuses those without a block', () => {
    const manifest = (name: string) => ({ layers: [layer(name, [2, 2, 2])], storedBitsPerWeight: 2 })
    expect(texts(read(allocationSvg(manifest('h.0.<&>'))))).toContain('<&>')
    for (const bad of [manifest('lm_head'), { layers: [], storedBitsPerWeight: 2 }])
      expect(() => allocationSvg(bad)).toThrow(expect.objectContaining({ code: 'SLIM_INVALID_ARGUMENT' }))
  })
})

describe('errorSvg', () => {
  it('leaves cells without a measured error empty', () => {
    const cells = cellsOf(read(errorSvg({ layers: LAYERS })))
    expect(cells.map(({ children }) => children[0]!.text.split(': ')[1])).toEqual([
      'not known',
      '0.50',
      '0.25',
    ])
    expect(cells.map(({ attributes }) => attributes.fill !== undefined)).toEqual([false, true, true])
    const none = LAYERS.map((l) => ({ ...l, relativeError: null }))
    expect(errorSvg({ layers: none })).not.toMatch(/NaN|Infinity/)
  })
})
