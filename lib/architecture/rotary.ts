/** Rotary embedding from a config, in the style of transformers v5 (`rope_parameters`) or v4 (`rope_theta`, `rope_scaling`). */
import type { Config } from './config.js'
import type { BlockSpec } from './spec.js'

export interface RotaryFields {
  /** A family's own name of `rope_theta`. */
  theta?: string
  /** A family's own name of `partial_rotary_factor`. */
  partial?: string
  /** The share of a head that turns when the config does not say. */
  defaultPartial?: number
}

type Scaling = (inverseFrequency: number, parameters: Config, config: Config) => number

/** Each scaling maps one inverse frequency; float32 at the steps where transformers has float32 tensors. */
const SCALINGS: Readonly<Record<string, Scaling>> = {
  default: (inverseFrequency) => inverseFrequency,
  linear: (inverseFrequency, parameters) => Math.fround(inverseFrequency / parameters.positive('factor')),
  llama3: (inverseFrequency, parameters, config) => {
    const factor = parameters.positive('factor')
    const low = parameters.positive('low_freq_factor')
    const high = parameters.positive('high_freq_factor')
    if (high <= low) parameters.fail('high_freq_factor', `a number above low_freq_factor, ${low}`)
    const context = parameters.size(
      'original_max_position_embeddings',
      config.size('max_position_embeddings'),
    )
    const wavelength = Math.fround(Math.fround(2 * Math.PI) / inverseFrequency)
    if (wavelength < context / high) return inverseFrequency
    const stretched = Math.fround(inverseFrequency / factor)
    if (wavelength > context / low) return stretched
    const smooth = (context / wavelength - low) / (high - low)
    return Math.fround((1 - smooth) * stretched + smooth * inverseFrequency)
  },
}

export function rotary(config: Config, headDim: number, fields: RotaryFields = {}): BlockSpec['rotary'] {
  const parameters = config.object('rope_scaling') ?? config.object('rope_parameters')
  const read = (name: string, own: string, fallback: number) =>
    parameters?.get(name) !== undefined ? parameters.positive(name) : config.positive(own, fallback)
  const theta = read('rope_theta', fields.theta ?? 'rope_theta', 10_000)
  const partial = read(
    'partial_rotary_factor',
    fields.partial ?? 'partial_rotary_factor',
    fields.defaultPartial ?? 1,
  )
  const field = parameters?.get('rope_type') === undefined ? 'type' : 'rope_type'
  const scaling = parameters?.oneOf(field, SCALINGS, 'default') ?? SCALINGS.default!

  const dim = Math.trunc(headDim * partial)
  if (dim < 2 || dim % 2 !== 0 || dim > headDim) {
    const expected = `an even share of the head dimension ${headDim}`
    throw parameters?.get('partial_rotary_factor') !== undefined
      ? parameters.unsupported('partial_rotary_factor', expected)
      : config.unsupported(fields.partial ?? 'partial_rotary_factor', expected)
  }
  const inverseFrequencies = Float32Array.from({ length: dim / 2 }, (_, i) => {
    const inverse = Math.fround(1 / Math.fround(theta ** Math.fround((2 * i) / dim)))
    return parameters ? scaling(inverse, parameters, config) : inverse
  })
  return { dim, inverseFrequencies, scale: 1 }
}
