/** What happens to every linear layer: its bits and group size, or that it is kept. */
import type { DecoderSpec, LinearSpec } from '../architecture/spec.js'
import { SlimError } from '../errors.js'
import { isObject, readJson } from '../files.js'
import type { LayerReport } from '../packed/manifest.js'
import type { BitMap, Settings } from './options.js'

export interface LayerPlan {
  linear: LinearSpec
  bits: number
  /** An override says this layer's bits. */
  ownBits: boolean
  groupSize: number
  skip: boolean
  /** Bits of every group where they are known: given, or allocated for the whole model. */
  groupBits: Uint8Array | null
}

/** The plan of every layer by name. */
export function planLayers(
  spec: DecoderSpec,
  settings: Settings,
  bitMap: BitMap | null,
): Map<string, LayerPlan> {
  const plan = new Map<string, LayerPlan>()
  const rules = Object.entries(settings.overrides).map(([glob, override]) => ({
    glob,
    match: layerGlob(glob),
    override,
  }))
  const unused = new Set(rules.map((rule) => rule.glob))
  for (const linear of spec.blocks.flatMap((block) => block.linears)) {
    const layer = { bits: settings.bits, ownBits: false, groupSize: settings.groupSize, skip: false }
    for (const { glob, match, override } of rules) {
      if (!match(linear.name)) continue
      unused.delete(glob)
      for (const [field, value] of Object.entries(override))
        if (value !== undefined)
          Object.assign(layer, { [field]: value, ownBits: layer.ownBits || field === 'bits' })
    }
    if (!layer.skip && layer.groupSize > linear.cols)
      throw new SlimError(
        'SLIM_GROUP_SIZE',
        `groupSize ${layer.groupSize} is larger than the ${linear.cols} input channels of ${linear.name}`,
        {
          parameter: 'groupSize',
          expected: `at most ${linear.cols}`,
          received: String(layer.groupSize),
          tensor: `${linear.name}.weight`,
          remedy: 'Choose a smaller groupSize, or override it for this layer',
        },
      )
    const groupBits = bitMap && !layer.skip ? givenBits(bitMap, linear, layer.groupSize) : null
    plan.set(linear.name, { linear, ...layer, groupBits })
  }
  for (const glob of unused)
    throw SlimError.invalidArgument(
      'overrides',
      'globs that match layer names',
      glob,
      `Layers are named as ${[...plan.keys()][0]}`,
    )
  return plan
}

/** The plan with the bits of groups that were allocated. */
export function withAllocation(
  plan: ReadonlyMap<string, LayerPlan>,
  allocation: BitMap,
): Map<string, LayerPlan> {
  const groupBits = (name: string) => (allocation[name] ? Uint8Array.from(allocation[name]) : null)
  return new Map(
    [...plan].map(([name, layer]) => [name, { ...layer, groupBits: groupBits(name) ?? layer.groupBits }]),
  )
}

/** Reads a bit map given as an object or as the path of a slimllm.json. */
export async function readBitMap(bitMap: BitMap | string | undefined): Promise<BitMap | null> {
  if (bitMap === undefined) return null
  if (typeof bitMap !== 'string') {
    if (isObject(bitMap)) return bitMap
    throw SlimError.invalidArgument('bitMap', 'bits by layer name, or the path of a slimllm.json', bitMap)
  }
  const { layers } = await readJson(bitMap)
  const isLayer = (layer: unknown): layer is LayerReport => isObject(layer) && Array.isArray(layer.groupBits)
  if (!Array.isArray(layers) || !layers.every(isLayer))
    throw new SlimError('SLIM_BAD_CONFIG', `${bitMap} has no list of layers with groupBits`, {
      file: bitMap,
      parameter: 'layers',
      expected: 'the slimllm.json of a packed folder',
    })
  return Object.fromEntries(layers.map((layer) => [layer.name, layer.groupBits]))
}

function givenBits(bitMap: BitMap, linear: LinearSpec, groupSize: number): Uint8Array {
  const groups = Math.ceil(linear.cols / groupSize)
  const given: unknown = Object.hasOwn(bitMap, linear.name) ? bitMap[linear.name] : undefined
  if (
    !Array.isArray(given) ||
    given.length !== groups ||
    given.some((bits) => !Number.isInteger(bits) || bits < 1 || bits > 8)
  )
    throw SlimError.invalidArgument(
      `bitMap["${linear.name}"]`,
      `${groups} whole numbers from 1 to 8`,
      Array.isArray(given) ? `[${given.join(', ')}]` : given,
    )
  return Uint8Array.from(given)
}

/** `*` is any text within a dotted part of a layer's name, `**` any number of parts, `{q,k}` one of those. */
function layerGlob(glob: string): (layer: string) => boolean {
  const escaped = (text: string) => text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')
  // Every part ends in a dot, of the name too, so that "**" may stand for none.
  const pattern = `${glob}.`.replace(
    /(?<=^|\.)\*\*\.|\*+|\{([^{}]*)\}|[^*]/g,
    (found: string, alternatives?: string) => {
      if (found === '**.') return '(?:[^.]+\\.)*'
      if (found.startsWith('*')) return '[^.]*'
      return alternatives === undefined
        ? escaped(found)
        : `(?:${alternatives.split(',').map(escaped).join('|')})`
    },
  )
  const name = new RegExp(`^${pattern}$`)
  return (layer) => name.test(`${layer}.`)
}
