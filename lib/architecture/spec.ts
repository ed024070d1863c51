/** What a model is, as data: everything that differs between families. No code depends on a family's name. */
import type { LinearRole, NormRole, TapName } from '../native/addon.js'

/** One decoder block, as the native code runs it. */
export interface BlockSpec {
  hiddenSize: number
  heads: number
  kvHeads: number
  headDim: number
  norm: {
    kind: 'rms' | 'layer'
    eps: number
    /** Gemma: the weight is stored as weight − 1. */
    unitOffset: boolean
  }
  /** Rotary embedding of the first `dim` elements of every head (halves apart, as in Hugging Face); null: none. */
  rotary: { dim: number; inverseFrequencies: Float32Array /** factor on cos and sin */; scale: number } | null
  attention: {
    /** Factor on q·k. */
    scale: number
    /** cap · tanh(score / cap); 0: none. */
    softcap: number
    /** A token sees itself and the window − 1 tokens before it; 0: all. */
    window: number
  }
  /** q, k, v as three layers; one layer with q, k, v rows stacked (Phi-3); or [q, k, v] for each head (GPT-NeoX). */
  qkvLayout: 'separate' | 'stacked' | 'perHead'
  activation: 'silu' | 'gelu' | 'geluTanh' | 'relu'
  /** down(act(gate x) ∘ up x); the same with gate and up rows stacked in one layer; down(act(up x)). */
  mlp: 'gated' | 'gatedStacked' | 'plain'
  /** x + attention, then + mlp; or x + attention(norm x) + mlp(norm' x) (GPT-NeoX). */
  residual: 'sequential' | 'parallel'
}

/** A linear layer of a block: its role, the checkpoint's name of its module, its shape, and the input it shares. */
export interface LinearSpec {
  role: LinearRole
  /** E.g. "model.layers.3.self_attn.q_proj"; tensors are name + ".weight" and, if `bias`, name + ".bias". */
  name: string
  rows: number
  cols: number
  bias: boolean
  tap: TapName
}

export interface NormSpec {
  role: NormRole
  name: string
  bias: boolean
}

export interface DecoderBlockSpec {
  index: number
  spec: BlockSpec
  linears: LinearSpec[]
  norms: NormSpec[]
}

export interface DecoderSpec {
  modelType: string
  vocabSize: number
  hiddenSize: number
  maxPositions: number
  embedding: { name: string; scale: number }
  positions: { name: string; offset: number } | null
  blocks: DecoderBlockSpec[]
  finalNorm: { name: string; bias: boolean } | null
  /** Tied heads have the embedding's name. */
  head: { name: string; tied: boolean }
  logitSoftcap: number
}
