import { describe, expect, it } from 'vitest'
import { addon, run } from '../../../lib/native/addon.js'
import { hessianOf } from '../../support/linear.js'
import { normals } from '../../support/random.js'

const native = addon()

describe('groupSalience', () => {
  it.each([
    [1, 8, 8],
    [7, 50, 16],
    [20, 33, 1],
  ])('is Σ w² / U_jj² (%i × %i, groups of %i)', async (rows, cols, groupSize) => {
    const x = normals(cols, 3 * cols * cols)
    const dead = cols - 2
    for (let t = 0; t < 3 * cols; t++) x[t * cols + dead] = 0
    const hessian = native.tensorFrom(Float32Array.from(hessianOf(x, cols, 2)), 'F32', [cols, cols])
    const w = normals(9, rows * cols)
    const weight = native.tensorFrom(w, 'F32', [rows, cols])
    const u = (await run(native.inverseFactor(hessian, 'salience', 1))).upper.toFloat32Array()
    const expected = new Float64Array(Math.ceil(cols / groupSize))
    for (let i = 0; i < w.length; i++) {
      const j = i % cols
      if (j !== dead) expected[Math.floor(j / groupSize)]! += (w[i]! / u[j * cols + j]!) ** 2
    }
    const one = await run(native.groupSalience(weight, hessian, groupSize, 1))
    for (let g = 0; g < expected.length; g++)
      expect(Math.abs(one[g]! - expected[g]!)).toBeLessThanOrEqual(1e-9 * expected[g]!)
    expect(await run(native.groupSalience(weight, hessian, groupSize, 2))).toEqual(one)
  })

  it('refuses a Hessian of another size', () => {
    const weight = native.allocateTensor('F32', [2, 8])
    const hessian = native.allocateTensor('F32', [7, 7])
    expect(() => native.groupSalience(weight, hessian, 4, 1)).toThrow(
      expect.objectContaining({ code: 'SLIM_INVALID_ARGUMENT', parameter: 'hessian' }),
    )
  })
})
