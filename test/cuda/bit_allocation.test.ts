/** SBA on the emulated device against the CPU, over odd shapes and on the golden vectors of the PyTorch reference. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { addon, run } from '../../lib/native/addon.js'
import { type EmulatedDevice, hasEmulator, openEmulated } from '../support/cuda.js'
import { normals } from '../support/random.js'
import { readSafetensors } from '../support/safetensors.js'

const skip = !hasEmulator()
const native = addon()
let emulated: EmulatedDevice
beforeAll(() => {
  if (!skip) emulated = openEmulated()
})
afterAll(() => emulated?.close())

const relative = (value: number, golden: number) => Math.abs(value / golden - 1)

function randomLayer(rows: number, cols: number, groupSize: number, tokens: number) {
  const w = normals(rows, rows * cols).map((v, i) => (Math.floor(i / cols) % 7 === 3 ? 0 : v * 0.2))
  return {
    weight: native.tensorFrom(w, 'F32', [rows, cols]),
    samples: native.tensorFrom(normals(cols, tokens * cols), 'F32', [tokens, cols]),
    salience: Float64Array.from(normals(3, Math.ceil(cols / groupSize)), Math.abs),
  }
}

describe.skipIf(skip)('SBA on the emulated device', () => {
  it.each([
    [1, 40, 10, 3, 2],
    [3, 33, 8, 1, 3],
    [7, 100, 16, 5, 2],
    [16, 96, 24, 17, 4],
    [37, 260, 32, 9, 7],
    [67, 130, 20, 33, 2],
    [300, 70, 7, 4, 3],
  ] as const)('%i × %i, groups of %i, %i tokens, %i bits', async (rows, cols, groupSize, tokens, bits) => {
    const { weight, samples, salience } = randomLayer(rows, cols, groupSize, tokens)
    const options = { bits, groupSize, sequences: 2 }
    const expected = await run(native.allocateBits(weight, samples, salience, options, 1))
    const given = await run(emulated.device.allocateBits(weight, samples, salience, options, 1))
    expect(given.kl.length).toBe(Math.floor(Math.ceil(cols / groupSize) / 2) - 1)
    // Outputs of tens: float32's last bits of them, through exp, in divergences that may be small.
    given.kl.forEach((kl, i) => {
      expect(Math.abs(kl - expected.kl[i]!)).toBeLessThan(2e-5 * Math.abs(expected.kl[i]!) + 1e-5)
    })
    expect(given.groupBits).toEqual(expected.groupBits)
  })

  it('has nothing to search with few groups, or without room for other widths', async () => {
    for (const [groupSize, bits] of [
      [16, 2],
      [4, 1],
      [4, 8],
    ] as const) {
      const { weight, samples, salience } = randomLayer(4, 40, groupSize, 2)
      const options = { bits, groupSize, sequences: 1 }
      const { groupBits, kl } = await run(emulated.device.allocateBits(weight, samples, salience, options, 1))
      expect(groupBits).toEqual(new Uint8Array(Math.ceil(40 / groupSize)).fill(bits))
      expect(kl.length).toBe(0)
    }
  })

  it('asks for calibration inputs', async () => {
    const { weight, salience } = randomLayer(4, 40, 4, 1)
    const none = native.allocateTensor('F32', [0, 40])
    await expect(
      run(emulated.device.allocateBits(weight, none, salience, { bits: 2, groupSize: 4, sequences: 1 }, 1)),
    ).rejects.toMatchObject({ code: 'SLIM_INVALID_ARGUMENT', parameter: 'samples' })
  })

  it.each([
    ['w2', 2],
    ['w3', 3],
  ] as const)('golden vectors %s: KL of every candidate and the bit map', async (name, bits) => {
    const golden = readSafetensors(new URL(`../fixtures/slim/${name}.safetensors`, import.meta.url))
    const samples = native.tensorFrom(golden.inputs!.toFloat32Array(), 'F32', [
      4 * 64,
      golden.weight!.shape[1]!,
    ])
    const salience = Float64Array.from(golden.group_salience!.toFloat32Array())
    const options = { bits, groupSize: 64, sequences: 4 }
    const { groupBits, kl } = await run(
      emulated.device.allocateBits(golden.weight!, samples, salience, options, 1),
    )
    expect(groupBits).toEqual(Uint8Array.from(golden.bits!.toFloat32Array()))
    const expected = golden.kl!.toFloat32Array()
    for (let i = 0; i < kl.length; i++) expect(relative(kl[i]!, expected[i]!)).toBeLessThan(1e-5)
  })
})
