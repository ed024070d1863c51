/** A decoder block in float64 by its definition, one sequence at a time: the oracle of the native block. */
import type { BlockSpec } from '../../lib/architecture/index.js'
import type { BlockWeights, LinearRole, NativeTensor, NormRole, TapName } from '../../lib/native/addon.js'
import { gelu, geluTanh, silu } from './functions.js'

type Matrix = number[][]

const ACTIVATIONS = { silu, gelu, geluTanh, relu: (x: number) => Math.max(0, x) }

export interface ReferenceResult {
  states: Matrix
  /** The inputs of the linear layers, [tokens][size]. */
  taps: Record<TapName, Matrix>
}

export function referenceBlock(spec: BlockSpec, weights: BlockWeights, states: Matrix): ReferenceResult {
  const { heads, kvHeads, headDim } = spec
  const values = (tensor: NativeTensor) => tensor.toFloat32Array()

  const linear = (role: LinearRole, x: Matrix): Matrix => {
    const { weight, bias } = weights.linears[role]!
    const w = values(weight as NativeTensor)
    const b = bias && values(bias)
    const cols = x[0]!.length
    const rows = w.length / cols
    return x.map((row) =>
      Array.from({ length: rows }, (_, r) =>
        row.reduce((sum, value, c) => sum + value * w[r * cols + c]!, b ? b[r]! : 0),
      ),
    )
  }
  const normRow = (role: NormRole, row: number[]): number[] => {
    const given = weights.norms[role]
    if (!given) return row
    const w = values(given.weight)
    const b = given.bias && values(given.bias)
    const mean = spec.norm.kind === 'layer' ? row.reduce((a, c) => a + c) / row.length : 0
    const variance = row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / row.length
    const scale = 1 / Math.sqrt(variance + spec.norm.eps)
    return row.map(
      (value, i) => (value - mean) * scale * (w[i]! + (spec.norm.unitOffset ? 1 : 0)) + (b ? b[i]! : 0),
    )
  }
  const norm = (role: NormRole, x: Matrix) => x.map((row) => normRow(role, row))
  const add = (x: Matrix, y: Matrix) => x.map((row, t) => row.map((value, i) => value + y[t]![i]!))

  const rotate = (head: number[], position: number): number[] => {
    if (!spec.rotary) return head
    const half = spec.rotary.dim / 2
    const out = [...head]
    spec.rotary.inverseFrequencies.forEach((frequency, i) => {
      const [cos, sin] = [Math.cos(position * frequency), Math.sin(position * frequency)]
      out[i] = (head[i]! * cos - head[half + i]! * sin) * spec.rotary!.scale
      out[half + i] = (head[half + i]! * cos + head[i]! * sin) * spec.rotary!.scale
    })
    return out
  }
  /** The heads of q, k and v of one token, [head][headDim] each. */
  const splitHeads = (
    row: { q: number[]; k: number[]; v: number[] } | number[],
  ): [Matrix, Matrix, Matrix] => {
    const slices = (from: number[], count: number, start = 0, step = headDim) =>
      Array.from({ length: count }, (_, h) => from.slice(start + h * step, start + h * step + headDim))
    if (!Array.isArray(row)) return [slices(row.q, heads), slices(row.k, kvHeads), slices(row.v, kvHeads)]
    if (spec.qkvLayout === 'perHead')
      return [0, 1, 2].map((part) => slices(row, heads, part * headDim, 3 * headDim)) as [
        Matrix,
        Matrix,
        Matrix,
      ]
    return [
      slices(row, heads),
      slices(row, kvHeads, heads * headDim),
      slices(row, kvHeads, (heads + kvHeads) * headDim),
    ]
  }

  const attention = (x: Matrix): Matrix => {
    const projected =
      spec.qkvLayout === 'separate'
        ? (() => {
            const [q, k, v] = [linear('q', x), linear('k', x), linear('v', x)]
            return q.map((row, t) => ({ q: row, k: k[t]!, v: v[t]! }))
          })()
        : linear('qkv', x)
    const tokens = projected.map((row, t) => {
      const [q, k, v] = splitHeads(row)
      const turn = (role: 'q' | 'k') => (head: number[]) => rotate(normRow(role, head), t)
      return { q: q.map(turn('q')), k: k.map(turn('k')), v }
    })
    return tokens.map(({ q }, t) => {
      const first = spec.attention.window ? Math.max(0, t - spec.attention.window + 1) : 0
      return q.flatMap((query, h) => {
        const kvHead = Math.floor(h / (heads / kvHeads))
        const seen = tokens.slice(first, t + 1)
        const scores = seen.map(({ k }) => {
          const score =
            spec.attention.scale * query.reduce((sum, value, d) => sum + value * k[kvHead]![d]!, 0)
          const cap = spec.attention.softcap
          return cap ? cap * Math.tanh(score / cap) : score
        })
        const highest = Math.max(...scores)
        const likelihoods = scores.map((score) => Math.exp(score - highest))
        const total = likelihoods.reduce((a, b) => a + b)
        return query.map((_, d) =>
          seen.reduce((sum, { v }, i) => sum + (likelihoods[i]! / total) * v[kvHead]![d]!, 0),
        )
      })
    })
  }

  const mlpInner = (x: Matrix): Matrix => {
    const act = ACTIVATIONS[spec.activation]
    if (spec.mlp === 'plain') return linear('up', x).map((row) => row.map(act))
    const both = spec.mlp === 'gatedStacked' ? linear('gateUp', x) : undefined
    const half = both ? both[0]!.length / 2 : 0
    const gate = both ? both.map((row) => row.slice(0, half)) : linear('gate', x)
    const up = both ? both.map((row) => row.slice(half)) : linear('up', x)
    return gate.map((row, t) => row.map((value, i) => act(value) * up[t]![i]!))
  }

  const qkv = norm('input', states)
  const o = attention(qkv)
  const attended = add(states, norm('postAttention', linear('o', o)))
  const gateUp = norm('preMlp', spec.residual === 'parallel' ? states : attended)
  const down = mlpInner(gateUp)
  return { states: add(attended, norm('postMlp', linear('down', down))), taps: { qkv, o, gateUp, down } }
}
