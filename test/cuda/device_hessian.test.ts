/** Hessians on the emulated device against the CPU's. */
import { afterAll, describe, expect, it } from 'vitest'
import { addon, run } from '../../lib/native/addon.js'
import { type EmulatedDevice, hasEmulator, openEmulated } from '../support/cuda.js'
import { relativeDifference } from '../support/linear.js'
import { normals } from '../support/random.js'

const native = addon()
const skip = !hasEmulator()
const emulated: EmulatedDevice | null = skip ? null : openEmulated()
afterAll(() => emulated?.close())

describe.skipIf(skip)('Hessians on the emulated device', () => {
  for (const [n, keepEvery, counts] of [
    [1, 1, [5, 1]],
    [33, 4, [5, 7, 1, 2, 10]],
    [64, 0, [16]],
    [130, 3, [70, 9]],
    [200, 1000, [20, 30]],
  ] as const)
    it(`of ${n} channels are the CPU's`, async () => {
      const onCpu = new native.Hessian(n, keepEvery)
      const onDevice = emulated!.device.hessian(n, keepEvery)
      expect(onDevice.size).toBe(n)
      expect([...onDevice.matrix().toFloat32Array()].every((value) => value === 0)).toBe(true)
      for (const [i, tokens] of counts.entries()) {
        const x = native.tensorFrom(normals(n + i, tokens * n), 'F32', [tokens, n])
        await run(onCpu.add(x, i + 1, 1))
        await run(onDevice.add(x, i + 1, 1))
        expect(onDevice.sequences).toBe(onCpu.sequences)
        // Read between adds, too: what was mirrored must not be added to.
        const h = onDevice.matrix()
        const values = h.toFloat32Array()
        expect(h.shape).toEqual([n, n])
        expect(relativeDifference(values, onCpu.matrix().toFloat32Array())).toBeLessThan(1e-6)
        for (let row = 0; row < n; row++)
          for (let column = 0; column < row; column++)
            expect(values[row * n + column]).toBe(values[column * n + row])
        expect(onDevice.samples().shape).toEqual(onCpu.samples().shape)
        expect(onDevice.samples().toBytes()).toEqual(onCpu.samples().toBytes())
      }
      onDevice.dispose()
    })

  it('sum up what inputs and states differ by from the original model', async () => {
    const [n, states, counts] = [70, 33, [9, 20]]
    const hessian = emulated!.device.hessian(n, 0)
    expect(hessian.drift()).toEqual({ inputs: null, states: null })
    const expected = { inputs: new Float64Array(n * n), states: new Float64Array(states * n) }
    for (const [i, tokens] of counts.entries()) {
      const [x, original] = [normals(4 * i, tokens * n), normals(4 * i + 1, tokens * n)]
      const [s, quantized] = [normals(4 * i + 2, tokens * states), normals(4 * i + 3, tokens * states)]
      const tensor = (values: Float32Array) =>
        native.tensorFrom(values, 'F32', [tokens, values.length / tokens])
      await run(
        hessian.add(tensor(x), 1, 1, {
          x: tensor(original),
          states: tensor(s),
          quantizedStates: tensor(quantized),
        }),
      )
      for (let t = 0; t < tokens; t++)
        for (let column = 0; column < n; column++) {
          const value = x[t * n + column]!
          for (let row = 0; row < n; row++)
            expected.inputs[row * n + column]! += (original[t * n + row]! - x[t * n + row]!) * value
          for (let row = 0; row < states; row++)
            expected.states[row * n + column]! +=
              (s[t * states + row]! - quantized[t * states + row]!) * value
        }
    }
    const { inputs, states: ofStates } = hessian.drift()
    expect(inputs!.shape).toEqual([n, n])
    expect(ofStates!.shape).toEqual([states, n])
    expect(relativeDifference(inputs!.toFloat32Array(), expected.inputs)).toBeLessThan(1e-6)
    expect(relativeDifference(ofStates!.toFloat32Array(), expected.states)).toBeLessThan(1e-6)
    const wrong = native.tensorFrom(new Float32Array(3), 'F32', [1, 3])
    const x = native.tensorFrom(new Float32Array(n), 'F32', [1, n])
    expect(() => hessian.add(x, 1, 1, { x: wrong })).toThrow(/original\.x/)
    expect(() => hessian.add(x, 1, 1, { states: wrong, quantizedStates: x })).toThrow(/quantizedStates/)
  })

  it('refuse inputs of another width, and use after disposal', async () => {
    const hessian = emulated!.device.hessian(8, 0)
    const x = native.tensorFrom(new Float32Array(18), 'F32', [2, 9])
    expect(() => hessian.add(x, 1, 1)).toThrow(
      expect.objectContaining({ code: 'SLIM_INVALID_ARGUMENT', parameter: 'x' }),
    )
    expect(() => emulated!.device.hessian(0, 0)).toThrow(
      expect.objectContaining({ code: 'SLIM_INVALID_ARGUMENT' }),
    )
    hessian.dispose()
    hessian.dispose()
    expect(() => hessian.matrix()).toThrow(expect.objectContaining({ code: 'SLIM_DISPOSED' }))
  })

  it('give their memory back', async () => {
    const before = emulated!.device.usedBytes
    const hessian = emulated!.device.hessian(40, 2)
    await run(hessian.add(native.tensorFrom(normals(1, 400), 'F32', [10, 40]), 1, 1))
    expect(emulated!.device.usedBytes).toBeGreaterThanOrEqual(before + 40 * 40 * 4 + 5 * 40 * 4)
    hessian.dispose()
    expect(emulated!.device.usedBytes).toBeLessThanOrEqual(before)
  })
})

describe.skipIf(skip)('relativeOutputError on the emulated device', () => {
  for (const [rows, cols] of [
    [1, 1],
    [7, 33],
    [70, 130],
  ] as const)
    it(`is right for ${rows} × ${cols} weights`, async () => {
      const w = normals(1, rows * cols)
      const noise = normals(2, rows * cols)
      const q = w.map((value, i) => value + 0.1 * noise[i]!)
      const x = normals(3, 50 * cols)
      const hessian = new native.Hessian(cols, 0)
      await run(hessian.add(native.tensorFrom(x, 'F32', [50, cols]), 1, 1))
      const energy = (d: (i: number) => number) => {
        let sum = 0
        for (let t = 0; t < 50; t++)
          for (let r = 0; r < rows; r++) {
            let y = 0
            for (let j = 0; j < cols; j++) y += d(r * cols + j) * x[t * cols + j]!
            sum += y * y
          }
        return sum
      }
      const expected = Math.sqrt(energy((i) => w[i]! - q[i]!) / energy((i) => w[i]!))
      const tensor = (values: Float32Array) => native.tensorFrom(values, 'F32', [rows, cols])
      const given = await run(emulated!.device.relativeOutputError(tensor(w), tensor(q), hessian.matrix()))
      expect(Math.abs(given / expected - 1)).toBeLessThan(1e-5)
      const zeros = tensor(new Float32Array(rows * cols))
      expect(await run(emulated!.device.relativeOutputError(zeros, tensor(q), hessian.matrix()))).toBe(0)
    })
})
