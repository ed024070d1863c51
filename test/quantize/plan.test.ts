import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { type DecoderSpec, decoderSpec, openCheckpoint } from '../../lib/index.js'
import { type QuantizeOptions, resolveSettings } from '../../lib/quantize/options.js'
import { planLayers, readBitMap } from '../../lib/quantize/plan.js'
import { demo, rejection } from '../support/demo.js'
import { temporaryFolder } from '../support/temporary.js'

let spec: DecoderSpec
beforeAll(async () => {
  using checkpoint = await openCheckpoint(demo)
  spec = decoderSpec(checkpoint.config)
})

const settings = (options: Partial<QuantizeOptions> = {}) =>
  resolveSettings({ output: 'x', calibration: { text: '' }, ...options })
const plan = (options: Partial<QuantizeOptions> = {}) => planLayers(spec, settings(options), null)

describe('planLayers', () => {
  it('plans every linear layer of the blocks alike by default', () => {
    const layers = [...plan({ bits: 3, groupSize: 128 }).values()]
    expect(layers).toHaveLength(6 * 7)
    for (const layer of layers)
      expect(layer).toMatchObject({ bits: 3, groupSize: 128, skip: false, groupBits: null })
  })

  it('applies globs in order; * stays within a part, ** does not', () => {
    const layers = plan({
      overrides: {
        '**.down_proj': { bits: 4, groupSize: 32 },
        'model.layers.0.**': { bits: 3 },
        'model.layers.*.self_attn.{q,k}_proj': { skip: true },
      },
    })
    expect(layers.get('model.layers.0.mlp.down_proj')).toMatchObject({ bits: 3, groupSize: 32 })
    expect(layers.get('model.layers.1.mlp.down_proj')).toMatchObject({ bits: 4, groupSize: 32 })
    expect(layers.get('model.layers.5.self_attn.k_proj')).toMatchObject({ skip: true })
    expect(layers.get('model.layers.5.self_attn.v_proj')).toMatchObject({ skip: false, bits: 2 })
    expect(() => plan({ overrides: { 'model.*.q_proj': { bits: 3 } } })).toThrow(/overrides/)
  })

  it('takes an undefined field of an override as none', () => {
    const layers = plan({ bits: 3, overrides: { '**': { bits: undefined, groupSize: 32 } } })
    expect(layers.get('model.layers.0.mlp.down_proj')).toMatchObject({ bits: 3, groupSize: 32 })
  })

  it('refuses a group size larger than a layer, naming it', () => {
    const wide = { ...spec, blocks: structuredClone(spec.blocks) }
    wide.blocks[0]!.linears[0]!.cols = 128
    expect(() => planLayers(wide, settings({ groupSize: 256 }), null)).toThrow(
      expect.objectContaining({ code: 'SLIM_GROUP_SIZE', tensor: 'model.layers.0.self_attn.q_proj.weight' }),
    )
  })

  it('takes a bit map, and refuses one of the wrong length or range', () => {
    const names = [...plan().keys()]
    const map = (bits: number[]) => Object.fromEntries(names.map((name) => [name, bits]))
    const narrow = {
      ...spec,
      blocks: spec.blocks.map((b) => ({ ...b, linears: b.linears.filter((l) => l.cols === 256) })),
    }
    const layers = planLayers(narrow, settings(), map([1, 2, 3, 2]))
    expect([...layers.get('model.layers.0.self_attn.q_proj')!.groupBits!]).toEqual([1, 2, 3, 2])
    for (const bits of [null as never, 2 as never, [1, 2, 3], [1, 2, 3, 0], [1, 2, 3, 9], [1, 2, 3, 1.5]])
      expect(() => planLayers(narrow, settings(), map(bits))).toThrow(
        /bitMap\["model.layers.0.self_attn.q_proj"\]/,
      )
    expect(() => planLayers(narrow, settings(), {})).toThrow(/bitMap/)
  })
})

describe('readBitMap', () => {
  const folder = temporaryFolder()
  it('reads a manifest, and says what is wrong with anything else', async () => {
    const file = path.join(folder, 'map.json')
    writeFileSync(file, JSON.stringify({ layers: [{ name: 'a', groupBits: [1, 2] }] }))
    expect(await readBitMap(file)).toEqual({ a: [1, 2] })
    expect(await readBitMap(undefined)).toBeNull()
    for (const text of ['{', '{}', 'null', '[]', '{"layers":[null]}', '{"layers":[{"name":"a"}]}']) {
      writeFileSync(file, text)
      expect(await rejection(readBitMap(file))).toMatchObject({ code: 'SLIM_BAD_CONFIG', file })
    }
    for (const value of [null, 3, ['a']])
      expect(await rejection(readBitMap(value as never))).toMatchObject({
        code: 'SLIM_INVALID_ARGUMENT',
        parameter: 'bitMap',
      })
    expect(await rejection(readBitMap(path.join(folder, 'none')))).toMatchObject({
      code: 'SLIM_FILE_NOT_FOUND',
    })
  })
})

describe('resolveSettings', () => {
  it.each([
    [{ bits: 0 }, 'bits'],
    [{ bitz: 3 } as never, 'bitz'],
    [{ calibration: { text: '', sample: 3 } as never }, 'calibration.sample'],
    [{ bits: 9 }, 'bits'],
    [{ bits: 2.5 }, 'bits'],
    [{ groupSize: 48 }, 'groupSize'],
    [{ method: 'awq' as never }, 'method'],
    [{ method: 'toString' as never }, 'method'],
    [{ method: null as never }, 'method'],
    [{ allocation: 'random' as never }, 'allocation'],
    [{ quantizer: 'best' as never }, 'quantizer'],
    [{ embeddingBits: 16 }, 'embeddingBits'],
    [{ overrides: { '**': { bits: 16 } } }, 'overrides["**"].bits'],
    [{ overrides: { '**': { group_size: 32 } as never } }, 'overrides["**"].group_size'],
    [{ overrides: { '**': { bits: '3' as never } } }, 'overrides["**"].bits'],
    [{ overrides: { '**': { skip: 'no' as never } } }, 'overrides["**"].skip'],
    [{ overrides: { '**': 3 as never } }, 'overrides["**"]'],
    [{ overrides: null as never }, 'overrides'],
    [{ calibration: undefined }, 'calibration'],
  ])('refuses %o by name', (options, parameter) => {
    expect(() => settings(options)).toThrow(
      expect.objectContaining({ code: 'SLIM_INVALID_ARGUMENT', parameter }),
    )
  })

  it('lets rtn do without calibration, and switches SBA and SQC alone', () => {
    expect(settings({ method: 'rtn', calibration: undefined }).recipe.compensation).toBe('none')
    const recipe = (options: Partial<QuantizeOptions>) => settings(options).recipe
    expect(recipe({ method: 'gptq', allocation: 'sba' })).toEqual({
      ...recipe({ method: 'gptq' }),
      allocation: 'sba',
    })
    expect(recipe({ method: 'slim-paper', allocation: 'uniform' })).toEqual({
      ...recipe({ method: 'slim-paper' }),
      allocation: 'uniform',
    })
    expect(recipe({ quantizer: 'minmax' })).toEqual({ ...recipe({}), quantizer: 'minmax' })
  })

  it.each([
    [{ bitsPerWeight: 0 }],
    [{ bitsPerWeight: -2 }],
    [{ bitsPerWeight: Number.NaN }],
    [{ bitsPerWeight: '2.5' as never }],
    [{ bitsPerWeight: 2.5, bits: 2 }],
    [{ bitsPerWeight: 2.5, bitMap: {} }],
    [{ bitsPerWeight: 2.5, allocation: 'uniform' as const }],
    [{ bitsPerWeight: 2.5, allocation: 'sba' as const }],
    [{ bitsPerWeight: 2.5, method: 'slim-paper' as const }],
    [{ bitsPerWeight: 2.5, method: 'gptq' as const }],
  ])('refuses a budget that nothing can keep, or beside another target: %o', (options) => {
    expect(() => settings(options)).toThrow(
      expect.objectContaining({ code: 'SLIM_INVALID_ARGUMENT', parameter: 'bitsPerWeight' }),
    )
  })
})
