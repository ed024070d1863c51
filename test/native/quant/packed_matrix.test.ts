import { afterEach, describe, expect, it } from 'vitest'
import { addon, run } from '../../../lib/native/addon.js'
import { productTransposed, relativeDifference } from '../../support/linear.js'
import { dequantizeParts, packParts, randomParts, tensorsOf, unpack } from '../../support/packed.js'
import { normals } from '../../support/random.js'

const native = addon()
const best = native.instructionSet()
afterEach(() => native.setInstructionSet(best))

const mixed = (groups: number) => Uint8Array.from({ length: groups }, (_, g) => 1 + ((g * 5) % 8))

const shapes: [string, number, number, number, Uint8Array][] = [
  ...[1, 2, 3, 4, 5, 6, 7, 8].map((bits): [string, number, number, number, Uint8Array] => [
    `${bits} bits, short last group`,
    13,
    83,
    32,
    new Uint8Array(3).fill(bits),
  ]),
  ['mixed widths', 9, 500, 64, mixed(8)],
  ['groups that are no multiple of a byte', 5, 97, 7, mixed(14)],
  ['one column a group', 3, 10, 1, mixed(10)],
  ['one row, one group', 1, 3, 3, mixed(1)],
]

describe('PackedMatrix', () => {
  it.each(shapes)('reads the layout: %s', async (_, rows, cols, groupSize, groupBits) => {
    const parts = await randomParts(rows, cols, groupSize, groupBits)
    const tensors = await tensorsOf(parts)
    const packed = new native.PackedMatrix(tensors)
    for (const set of native.instructionSets()) {
      native.setInstructionSet(set)
      const dense = await run(packed.dequantize(2))
      expect(dense.shape).toEqual([rows, cols])
      expect(dense.toFloat32Array()).toEqual(dequantizeParts(parts))
    }
    expect(unpack(packed)).toEqual(parts)
    const { qweight, groupBits: bits, scales, qzeros } = tensors
    expect(packed.storedBytes).toBe([qweight, bits, scales, qzeros].reduce((sum, t) => sum + t.byteLength, 0))
  })

  it.each(shapes)('writes the layout: %s', async (_, rows, cols, groupSize, groupBits) => {
    const weight = native.tensorFrom(normals(rows, rows * cols), 'F32', [rows, cols])
    const packed = await run(native.fitGroups(weight, groupBits, { groupSize, quantizer: 'minmax' }, 2))
    const parts = unpack(packed)
    expect((await run(packed.dequantize(1))).toFloat32Array()).toEqual(dequantizeParts(parts))
    const written = await packParts(parts)
    expect(packed.qweight().toBytes()).toEqual(written.qweight)
    expect(packed.qzeros().toBytes()).toEqual(written.qzeros)
  })

  it.each([1, 3, 40])('multiplies %i tokens', async (tokens) => {
    const [rows, cols] = [37, 700]
    const parts = await randomParts(rows, cols, 48, mixed(15))
    const packed = new native.PackedMatrix(await tensorsOf(parts))
    const x = normals(8, tokens * cols)
    const y = await run(packed.matmul(native.tensorFrom(x, 'F32', [tokens, cols]), 2))
    expect(y.shape).toEqual([tokens, rows])
    const expected = productTransposed(x, dequantizeParts(parts), tokens, rows, cols)
    expect(relativeDifference(y.toFloat32Array(), expected)).toBeLessThan(1e-5)
  })

  describe('refuses parts that do not fit each other', async () => {
    const good = await tensorsOf(await randomParts(4, 20, 8, new Uint8Array([1, 3, 8])))
    const bytes = (values: number[]) => native.tensorFrom(Uint8Array.from(values), 'U8', [values.length])
    const halves = (values: number[], shape: number[]) =>
      native.tensorFrom(Uint16Array.from(values), 'F16', shape)
    const shorter = (name: 'qweight' | 'qzeros') => bytes([...good[name].toBytes().slice(1)])
    it.each([
      ['a width of 0', { groupBits: bytes([0, 3, 8]) }, 'SLIM_INVALID_ARGUMENT', 'group_bits[0]'],
      ['a width of 9', { groupBits: bytes([1, 3, 9]) }, 'SLIM_INVALID_ARGUMENT', 'group_bits[2]'],
      ['another number of groups', { groupBits: bytes([1, 3]) }, 'SLIM_TENSOR_SHAPE', 'group_bits'],
      ['other widths', { groupBits: bytes([1, 4, 8]) }, 'SLIM_TENSOR_SHAPE', 'qweight'],
      ['truncated codes', { qweight: shorter('qweight') }, 'SLIM_TENSOR_SHAPE', 'qweight'],
      ['truncated zeros', { qzeros: shorter('qzeros') }, 'SLIM_TENSOR_SHAPE', 'qzeros'],
      ['other rows', { rows: 5 }, 'SLIM_TENSOR_SHAPE', 'scales'],
      ['huge rows', { rows: 2 ** 40 }, 'SLIM_INVALID_ARGUMENT', 'rows'],
      ['a group size of 0', { groupSize: 0 }, 'SLIM_INVALID_ARGUMENT', 'parts.groupSize'],
      [
        'scales of another dtype',
        { scales: native.allocateTensor('F32', [3, 4]) },
        'SLIM_TENSOR_DTYPE',
        'scales',
      ],
      [
        'an infinite scale',
        { scales: halves(Array(12).fill(0x7c00), [3, 4]) },
        'SLIM_TENSOR_NON_FINITE',
        'scales',
      ],
      [
        'a mean that is NaN',
        { qzeros: bytes([0, 0, 0, 0, 0, 0, 0, 0x7e, ...good.qzeros.toBytes().slice(8)]) },
        'SLIM_TENSOR_NON_FINITE',
        'qzeros',
      ],
    ])('%s', (_, part, code, parameter) => {
      expect(() => new native.PackedMatrix(good)).not.toThrow()
      expect(() => new native.PackedMatrix({ ...good, ...part })).toThrow(
        expect.objectContaining({ code, parameter }),
      )
    })

    it('inputs of another width, and use after disposal', () => {
      const packed = new native.PackedMatrix(good)
      const x = native.allocateTensor('F32', [2, 21])
      expect(() => packed.matmul(x, 1)).toThrow(expect.objectContaining({ parameter: 'x' }))
      packed.dispose()
      packed.dispose()
      expect(() => packed.rows).toThrow(expect.objectContaining({ code: 'SLIM_DISPOSED' }))
    })
  })
})
