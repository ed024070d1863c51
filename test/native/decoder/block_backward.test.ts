import { describe, expect, it } from 'vitest'
import { addon, run } from '../../../lib/native/addon.js'
import { FAMILIES, largestDifference, loadFixture, randomIds, readJson } from '../../support/decoder.js'
import { copyOf, goldenGradients, modelGradients } from '../../support/gradients.js'

const largest = (values: ArrayLike<number>) => largestDifference(values, new Float64Array(values.length))
/** The largest difference as a share of the largest expected value. */
const relativeError = (values: ArrayLike<number>, expected: ArrayLike<number>) =>
  largestDifference(values, expected) / largest(expected)

describe.each(FAMILIES)('%s against PyTorch', (family) => {
  const golden = goldenGradients(family)
  const ids = Int32Array.from(readJson<{ input_ids: number[] }>(family, 'golden.json').input_ids)

  it.each(addon().instructionSets())('gives its gradients (%s)', async (set) => {
    addon().setInstructionSet(set)
    const decoder = await loadFixture(family)
    const { states, blocks } = await modelGradients(decoder, ids, ids.length)
    addon().setInstructionSet(addon().instructionSets().at(-1)!)
    expect(relativeError(states.toFloat32Array(), golden.states!)).toBeLessThan(1e-5)
    decoder.spec.blocks.forEach((block, i) => {
      for (const { role, name, cols } of block.linears) {
        expect(relativeError(blocks[i]!.fisher[role]!, golden[`fisher.${name}`]!), name).toBeLessThan(1e-5)
        const w = blocks[i]!.weightGradients[role]!.toFloat32Array()
        const sums = golden[`weightSums.${name}`]!.map((_, r) =>
          w.subarray(r * cols, (r + 1) * cols).reduce((a, b) => a + b, 0),
        )
        const scale = largest(w) * Math.sqrt(cols)
        expect(largestDifference(sums, golden[`weightSums.${name}`]!) / scale, name).toBeLessThan(1e-5)
      }
    })
  })
})
