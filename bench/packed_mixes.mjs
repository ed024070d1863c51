// Our side of packed_peers.mjs: matrices with groups of mixed widths.
import { randomFillSync } from 'node:crypto'
import { createRequire } from 'node:module'
import path from 'node:path'
import { here } from './native_module.mjs'

export const native = createRequire(import.meta.url)('node-gyp-build')(path.dirname(here))

/** A mix has so many of its groups one bit narrower, and as many one bit wider: the mean is its name. */
export const MIXES = [
  { name: 'slimllm 2-bit mix', mean: 2, share: 0.1 },
  { name: 'slimllm 3-bit mix', mean: 3, share: 0.1 },
  { name: 'slimllm 4-bit', mean: 4, share: 0 },
]

/** Narrower and wider groups spread evenly among the others. */
export function mixedBits(groups, { mean, share }) {
  const bits = new Uint8Array(groups).fill(mean)
  const count = Math.min(Math.round(share * groups), groups >> 1)
  for (let i = 0; i < count; i++) {
    const at = Math.floor((i * groups) / count)
    bits[at] = mean - 1
    bits[at + Math.max(1, Math.floor(groups / count / 2))] = mean + 1
  }
  return bits
}

const HALF_SMALL = 0x2000 // 2^-7 as float16, to which a mantissa of 10 bits is added
const HALF_MEANS = [0x1000, 0x9000] // ±2^-11

/** Random codes, zero points and scales, in the layout of docs/format.md; `groupBits`: of every group. */
export function randomMatrix(cols, rows, groupSize, groupBits) {
  const codes = []
  const zeros = []
  groupBits.forEach((bits, k) => {
    const count = Math.min(groupSize, cols - k * groupSize)
    const rowBytes = Math.ceil((count * bits) / 8)
    if ((count * bits) % 8) throw new Error(`groups of ${count} columns do not fill bytes with ${bits} bits`)
    codes.push(randomFillSync(new Uint8Array(rows * rowBytes)))
    zeros.push(
      bits > 1
        ? randomFillSync(new Uint8Array(Math.ceil((rows * bits) / 8)))
        : new Uint8Array(Uint16Array.from({ length: rows }, (_, r) => HALF_MEANS[r & 1]).buffer),
    )
  })
  const tensor = (array, dtype, shape) => native.tensorFrom(array, dtype, shape)
  const bytes = (parts) => {
    const joined = new Uint8Array(Buffer.concat(parts))
    return tensor(joined, 'U8', [joined.length])
  }
  const parts = {
    qweight: bytes(codes),
    groupBits: bytes([groupBits]),
    scales: tensor(
      new Uint16Array(groupBits.length * rows).map(() => HALF_SMALL + Math.random() * 1024),
      'F16',
      [groupBits.length, rows],
    ),
    qzeros: bytes(zeros),
  }
  const matrix = new native.PackedMatrix({ rows, cols, groupSize, ...parts })
  for (const part of Object.values(parts)) part.dispose()
  return matrix
}

/** Participants as packed_participants.mjs describes them. */
export function ourParticipants({ copiesOf, randomArray, exactProducts, checkProducts, slabRows }) {
  return MIXES.map((mix) => ({
    name: mix.name,
    ours: true,
    bits: mix.mean,
    async make({ cols, rows, tokens, groupSize }) {
      const matrix = randomMatrix(cols, rows, groupSize, mixedBits(Math.ceil(cols / groupSize), mix))
      const bytes = matrix.storedBytes
      const input = randomArray(tokens * cols)
      const x = native.tensorFrom(input, 'F32', [tokens, cols])
      const y = native.allocateTensor('F32', [tokens, rows])
      const copies = copiesOf(bytes, tokens)
      const options = { copies, repeats: copies }
      await native.packedCase(x, [{ matrix, y }], { copies, repeats: 1 }, 1).promise
      const weights = await matrix.dequantize(2).promise
      const slab = weights.toFloat32Array().subarray(0, slabRows * cols)
      const product = y.toFloat32Array()
      checkProducts(mix.name, product, rows, exactProducts(slab, input, cols, tokens), 0.02)
      weights.dispose()
      return {
        bytes,
        async turn(threads) {
          const seconds = await native.packedCase(x, [{ matrix, y }], options, threads).promise
          return seconds.reduce((sum, s) => sum + s, 0) / copies
        },
        dispose() {
          for (const object of [matrix, x, y]) object.dispose()
        },
      }
    },
  }))
}
