/** From a Hugging Face config.json to the description that the native decoder runs. */
import { SlimError } from '../errors.js'
import type { LinearRole, NormRole, TapName } from '../native/addon.js'
import { Config } from './config.js'
import { FAMILIES, type FamilyModel } from './families.js'
import type { DecoderBlockSpec, DecoderSpec, LinearSpec, NormSpec } from './spec.js'

export type * from './spec.js'

/** The `model_type`s that decoderSpec takes. */
export const supportedModelTypes: readonly string[] = Object.keys(FAMILIES)

export function decoderSpec(config: Record<string, unknown>): DecoderSpec {
  const fields = new Config(config)
  const modelType = fields.string('model_type')
  if (!Object.hasOwn(FAMILIES, modelType))
    throw new SlimError(
      'SLIM_UNSUPPORTED_ARCHITECTURE',
      `Models of type ${JSON.stringify(modelType)} are not supported; supported are ${supportedModelTypes.join(', ')}`,
      {
        parameter: 'model_type',
        expected: supportedModelTypes.join(', '),
        received: JSON.stringify(modelType),
      },
    )
  const model = FAMILIES[modelType]!(fields)
  return {
    modelType,
    vocabSize: model.vocabSize,
    hiddenSize: model.hiddenSize,
    maxPositions: model.maxPositions,
    embedding: model.embedding,
    positions: model.positions,
    blocks: Array.from({ length: model.layers }, (_, index) => blockSpec(model, index)),
    finalNorm: model.finalNorm === null ? null : { name: model.finalNorm, bias: model.normBias },
    head: { name: model.tied ? model.embedding.name : model.head, tied: model.tied },
    logitSoftcap: model.logitSoftcap,
  }
}

/** Tokens a window where the caller does not say: 2048, or as many as the model has positions. */
export function defaultSeqLen(spec: DecoderSpec): number {
  return Math.min(2048, spec.maxPositions)
}

/** Which input a role shares, and which of a family's biases it has. */
const ROLES: Readonly<Record<LinearRole, { tap: TapName; bias: keyof FamilyModel['bias'] }>> = {
  q: { tap: 'qkv', bias: 'qkv' },
  k: { tap: 'qkv', bias: 'qkv' },
  v: { tap: 'qkv', bias: 'qkv' },
  qkv: { tap: 'qkv', bias: 'qkv' },
  o: { tap: 'o', bias: 'o' },
  gate: { tap: 'gateUp', bias: 'mlp' },
  up: { tap: 'gateUp', bias: 'mlp' },
  gateUp: { tap: 'gateUp', bias: 'mlp' },
  down: { tap: 'down', bias: 'mlp' },
}

function blockSpec(model: FamilyModel, index: number): DecoderBlockSpec {
  const { hiddenSize, heads, kvHeads, headDim } = model.block
  const queryWidth = heads * headDim
  const keyWidth = kvHeads * headDim
  const inner = model.intermediateSize
  const shapes: Record<LinearRole, readonly [rows: number, cols: number]> = {
    q: [queryWidth, hiddenSize],
    k: [keyWidth, hiddenSize],
    v: [keyWidth, hiddenSize],
    qkv: [queryWidth + 2 * keyWidth, hiddenSize],
    o: [hiddenSize, queryWidth],
    gate: [inner, hiddenSize],
    up: [inner, hiddenSize],
    gateUp: [2 * inner, hiddenSize],
    down: [hiddenSize, inner],
  }
  const name = (module: string) => `${model.prefix}.${index}.${module}`
  const linears = Object.entries(model.linears).map(([key, module]): LinearSpec => {
    const role = key as LinearRole
    const [rows, cols] = shapes[role]
    return { role, name: name(module), rows, cols, bias: model.bias[ROLES[role].bias], tap: ROLES[role].tap }
  })
  const norms = Object.entries(model.norms).map(
    ([role, module]): NormSpec => ({ role: role as NormRole, name: name(module), bias: model.normBias }),
  )
  const attention = { ...model.block.attention, window: model.window(index) }
  return { index, spec: { ...model.block, attention }, linears, norms }
}
