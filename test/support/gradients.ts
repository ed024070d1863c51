/** A small decoder backwards, and the golden gradients of PyTorch. */
import path from 'node:path'
import { addon, type BlockGradients, type NativeTensor, run } from '../../lib/native/addon.js'
import { FIXTURES, type LoadedDecoder } from './decoder.js'
import { readSafetensors } from './safetensors.js'

/** Of test/fixtures/hf/make_gradients.py, by name. */
export function goldenGradients(family: string): Record<string, Float32Array> {
  const tensors = readSafetensors(path.join(FIXTURES, family, 'gradients.safetensors'))
  return Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, tensor.toFloat32Array()]))
}

export const copyOf = (tensor: NativeTensor) =>
  addon().tensorFrom(tensor.toFloat32Array(), 'F32', tensor.shape)

export interface ModelGradients {
  nll: number
  states: NativeTensor
  blocks: BlockGradients[]
}

/** ∂L/∂ everything of one batch of windows with given labels; the labels of a token are the tokens after it. */
export async function modelGradients(
  { spec, embedding, blocks, head }: LoadedDecoder,
  ids: Int32Array,
  sequenceLength: number,
  threads = 2,
): Promise<ModelGradients> {
  const states = await run(addon().embedTokens(ids, sequenceLength, embedding, null, threads))
  const inputs: NativeTensor[] = []
  for (const block of blocks) {
    inputs.push(copyOf(states))
    await run(block.forward(states, { sequenceLength }, threads))
  }
  const options = { ...head, norm: spec.blocks[0]!.spec.norm, logitSoftcap: spec.logitSoftcap }
  const labels = Int32Array.from({ length: ids.length }, (_, t) => ids[t + 1] ?? 0)
  const { gradients, nll } = await run(
    addon().headGradient(states, { ...options, sequenceLength, labels }, threads),
  )
  const results: BlockGradients[] = []
  const sinks = { sequenceLength, fisher: true, weightGradients: true }
  for (const [i, block] of [...blocks.entries()].reverse())
    results.unshift(await run(block.backward(inputs[i]!, gradients, sinks, threads)))
  return { nll, states: gradients, blocks: results }
}
