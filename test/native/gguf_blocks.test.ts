import { describe, expect, it } from 'vitest'
import { addon, run } from '../../lib/native/addon.js'
import { goldenBlocks, tiled } from '../support/golden_blocks.js'

const native = addon()

describe.each(goldenBlocks())('%s', (dtype, { blockElements, blockBytes, bytes, values }) => {
  it("has the values of ggml's decoder, to the bit", async () => {
    const tensor = native.tensorFrom(bytes, dtype, [values.length])
    expect(tensor.byteLength).toBe(bytes.length)
    expect(tensor.toFloat32Array()).toEqual(values)
    const rows = [values.length / blockElements, blockElements]
    const matrix = native.tensorFrom(bytes, dtype, rows)
    for (const threads of [1, 2])
      expect((await run(native.convertTensor(matrix, 'F32', threads))).toFloat32Array()).toEqual(values)
    const halves = await run(native.convertTensor(native.tensorFrom(values, 'F32', rows), 'F16', 1))
    expect((await run(native.convertTensor(matrix, 'F16', 2))).toBytes()).toEqual(halves.toBytes())
  })

  it('is read in runs that begin and end inside a block, and in rows longer than a chunk', async () => {
    // Products read their operands in panels whose borders are not those of a super-block.
    const [rows, repeats] = [3, 9]
    const cols = repeats * values.length
    const matrix = native.tensorFrom(tiled(bytes, rows * repeats * bytes.length), dtype, [rows, cols])
    const dense = await run(native.convertTensor(matrix, 'F32', 2))
    expect(dense.toFloat32Array()).toEqual(tiled(values, rows * cols))
    const x = native.tensorFrom(
      Float32Array.from({ length: 2 * cols }, (_, i) => ((i * 37) % 101) / 50 - 1),
      'F32',
      [2, cols],
    )
    const product = (await run(native.matmul(x, matrix, 1))).toFloat32Array()
    expect(product).toEqual((await run(native.matmul(x, dense, 1))).toFloat32Array())
  })

  it('finds a scale that is not finite, and refuses rows that are not whole blocks', async () => {
    const scaleAt = { Q2_K: 80, Q3_K: 108, Q6_K: 208, TQ2_0: 64 }[dtype as string] ?? 0
    const damaged = bytes.slice()
    const last = bytes.length - blockBytes + scaleAt
    damaged.set([0x00, 0x7e], last)
    const tensor = native.tensorFrom(damaged, dtype, [values.length])
    const index = await run(native.findNonFinite(tensor, 2))
    expect(index).toBe(values.length - blockElements)
    expect(await run(native.findNonFinite(native.tensorFrom(bytes, dtype, [values.length]), 1))).toBe(-1)
    for (const cols of [blockElements - 1, blockElements + 16, 1])
      expect(() => native.tensorFrom(new Uint8Array(blockBytes), dtype, [1, cols])).toThrow(
        new RegExp(`multiple of ${blockElements} .* ${dtype} \\[1, ${cols}\\]`),
      )
  })
})
