/** Small decoders from fixtures or from random weights. */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { type DecoderBlockSpec, type DecoderSpec, decoderSpec } from '../../lib/architecture/index.js'
import {
  addon,
  type BlockWeights,
  type EmbeddingParts,
  type FloatDType,
  type ModelParts,
  type NativeDecoderBlock,
  type NativeDecoderModel,
  type NativeTensor,
  run,
} from '../../lib/native/addon.js'
import { readSafetensors } from './safetensors.js'

export const FIXTURES = path.join(path.dirname(fileURLToPath(import.meta.url)), '../fixtures/hf')
export const FAMILIES = [
  'gemma2',
  'gpt-neox',
  'llama',
  'llama-tied',
  'llama3-rope',
  'mistral-window',
  'opt',
  'phi3',
  'qwen2',
  'qwen3',
]

export type TensorSource = (name: string) => NativeTensor

export function readJson<T>(...parts: string[]): T {
  return JSON.parse(readFileSync(path.join(FIXTURES, ...parts), 'utf8')) as T
}

export function fixtureConfig(family: string): Record<string, unknown> {
  return readJson(family, 'config.json')
}

export function blockWeights(block: DecoderBlockSpec, tensor: TensorSource): BlockWeights {
  const parameters = ({ name, bias }: { name: string; bias: boolean }) => ({
    weight: tensor(`${name}.weight`),
    bias: bias ? tensor(`${name}.bias`) : undefined,
  })
  return {
    linears: Object.fromEntries(block.linears.map((linear) => [linear.role, parameters(linear)])),
    norms: Object.fromEntries(block.norms.map((norm) => [norm.role, parameters(norm)])),
  }
}

export interface LoadedDecoder {
  spec: DecoderSpec
  embedding: EmbeddingParts
  head: Pick<ModelParts, 'finalNorm' | 'head'>
  blocks: NativeDecoderBlock[]
  model: NativeDecoderModel
}

export function buildDecoder(spec: DecoderSpec, tensor: TensorSource): LoadedDecoder {
  const { DecoderBlock, DecoderModel } = addon()
  const blocks = spec.blocks.map((block) => new DecoderBlock(block.spec, blockWeights(block, tensor)))
  const { positions, finalNorm } = spec
  const embedding: EmbeddingParts = {
    embedding: tensor(`${spec.embedding.name}.weight`),
    positions: positions
      ? { weight: tensor(`${positions.name}.weight`), offset: positions.offset }
      : undefined,
    embeddingScale: spec.embedding.scale,
  }
  const head = {
    finalNorm: finalNorm
      ? {
          weight: tensor(`${finalNorm.name}.weight`),
          bias: finalNorm.bias ? tensor(`${finalNorm.name}.bias`) : undefined,
        }
      : undefined,
    head: tensor(`${spec.head.name}.weight`),
  }
  const model = new DecoderModel({ ...embedding, blocks, ...head, logitSoftcap: spec.logitSoftcap })
  return { spec, embedding, head, blocks, model }
}

/** A fixture's model, its weights (not its norms) in another dtype if one is given. */
export async function loadFixture(family: string, dtype: FloatDType = 'F32'): Promise<LoadedDecoder> {
  const stored = readSafetensors(path.join(FIXTURES, family, 'model.safetensors'))
  const tensors = new Map<string, NativeTensor>()
  for (const [name, tensor] of Object.entries(stored))
    tensors.set(name, dtype === 'F32' ? tensor : await run(addon().convertTensor(tensor, dtype, 1)))
  return buildDecoder(decoderSpec(fixtureConfig(family)), (name) => {
    const tensor = tensors.get(name)
    if (!tensor) throw new Error(`${family} has no tensor ${name}`)
    return tensor
  })
}

/** Deterministic numbers in (−1, 1), of the xorshift32 generator. */
export function randomFloats(count: number, seed: number, scale = 1): Float32Array {
  let state = (seed * 2654435761 + 1) >>> 0 || 1
  return Float32Array.from({ length: count }, () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return ((state >>> 0) / 2 ** 31 - 1) * scale
  })
}

export function randomTensor(shape: number[], seed: number, scale = 1): NativeTensor {
  const count = shape.reduce((product, d) => product * d, 1)
  return addon().tensorFrom(randomFloats(count, seed, scale), 'F32', shape)
}

export function randomIds(count: number, vocab: number, seed: number): Int32Array {
  return Int32Array.from(randomFloats(count, seed), (x) => Math.floor(((x + 1) / 2) * vocab))
}

export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY
  let largest = 0
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i]! - b[i]!)
    if (!(difference <= largest)) largest = difference
  }
  return largest
}
