/** Decoder blocks of every kind with random weights. */
import type { BlockSpec } from '../../lib/architecture/index.js'
import type { BlockWeights, LinearRole, NormRole } from '../../lib/native/addon.js'
import { randomTensor } from './decoder.js'

const base: BlockSpec = {
  hiddenSize: 20,
  heads: 4,
  kvHeads: 2,
  headDim: 6,
  norm: { kind: 'rms', eps: 1e-5, unitOffset: false },
  rotary: { dim: 6, inverseFrequencies: Float32Array.of(1, 0.1, 0.01), scale: 1 },
  attention: { scale: 6 ** -0.5, softcap: 0, window: 0 },
  qkvLayout: 'separate',
  activation: 'silu',
  mlp: 'gated',
  residual: 'sequential',
}
export const INNER = 37

/** Combinations that the fixtures have, and others: nothing in the block depends on a family. */
export const specs: Record<string, { spec: Partial<BlockSpec>; bias?: boolean; norms?: NormRole[] }> = {
  'like LLaMA': { spec: {} },
  'like Qwen2, with biases': { spec: {}, bias: true },
  'like Qwen3, with norms of q and k': { spec: {}, norms: ['q', 'k'] },
  'like Gemma 2': {
    spec: {
      norm: { kind: 'rms', eps: 1e-6, unitOffset: true },
      attention: { scale: 0.3, softcap: 3, window: 5 },
      activation: 'geluTanh',
    },
    norms: ['postAttention', 'postMlp'],
  },
  'like Phi-3': {
    spec: { qkvLayout: 'stacked', mlp: 'gatedStacked', attention: { scale: 0.4, softcap: 0, window: 7 } },
  },
  'like OPT': {
    spec: {
      kvHeads: 4,
      norm: { kind: 'layer', eps: 1e-5, unitOffset: false },
      rotary: null,
      activation: 'relu',
      mlp: 'plain',
    },
    bias: true,
  },
  'like GPT-NeoX': {
    spec: {
      kvHeads: 4,
      norm: { kind: 'layer', eps: 1e-5, unitOffset: false },
      rotary: { dim: 2, inverseFrequencies: Float32Array.of(1), scale: 1 },
      qkvLayout: 'perHead',
      activation: 'gelu',
      mlp: 'plain',
      residual: 'parallel',
    },
    bias: true,
  },
  'perHead and sequential': {
    spec: { kvHeads: 4, qkvLayout: 'perHead', mlp: 'plain', activation: 'gelu' },
    bias: true,
  },
  'parallel, gated, one key head, scaled rotary': {
    spec: { kvHeads: 1, residual: 'parallel', rotary: { ...base.rotary!, scale: 1.3 } },
    norms: ['postAttention', 'postMlp', 'q', 'k'],
  },
}

export const randomBlock = (name: string) => randomBlockOf(specs[name]!)

/** `inner`: the size of the MLP. */
export function randomBlockOf(
  { spec: partial, bias = false, norms = [] }: (typeof specs)[string],
  inner = INNER,
): { spec: BlockSpec; weights: BlockWeights } {
  const spec = { ...base, ...partial }
  const { hiddenSize, heads, kvHeads, headDim } = spec
  const shapes: Partial<Record<LinearRole, [number, number]>> = {
    o: [hiddenSize, heads * headDim],
    ...(spec.qkvLayout === 'separate'
      ? {
          q: [heads * headDim, hiddenSize],
          k: [kvHeads * headDim, hiddenSize],
          v: [kvHeads * headDim, hiddenSize],
        }
      : { qkv: [(heads + 2 * kvHeads) * headDim, hiddenSize] }),
    ...(spec.mlp === 'gatedStacked' ? { gateUp: [2 * inner, hiddenSize] } : { up: [inner, hiddenSize] }),
    ...(spec.mlp === 'gated' ? { gate: [inner, hiddenSize] } : {}),
    down: [hiddenSize, inner],
  }
  let seed = 1
  const linears = Object.entries(shapes).map(([role, [rows, cols]]) => [
    role,
    {
      weight: randomTensor([rows, cols], seed++, 0.5),
      bias: bias ? randomTensor([rows], seed++) : undefined,
    },
  ])
  const normRoles: NormRole[] = ['input', 'preMlp', ...norms]
  const layerNorm = spec.norm.kind === 'layer'
  const normWeights = normRoles.map((role) => {
    const size = role === 'q' || role === 'k' ? headDim : hiddenSize
    return [
      role,
      { weight: randomTensor([size], seed++), bias: layerNorm ? randomTensor([size], seed++) : undefined },
    ]
  })
  return { spec, weights: { linears: Object.fromEntries(linears), norms: Object.fromEntries(normWeights) } }
}
