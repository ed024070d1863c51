/** Every step of SliM-LLM against golden vectors of the PyTorch reference (96 rows, 512 columns, groups of 64). */
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  addon,
  type NativeHessian,
  type NativeTensor,
  type QuantizeLinearOptions,
  run,
} from '../../../lib/native/addon.js'
import { floatToHalf } from '../../support/half.js'
import { relativeDifference } from '../../support/linear.js'
import { unpack } from '../../support/packed.js'
import { readSafetensors } from '../../support/safetensors.js'

const native = addon()
const threads = 2
const groupSize = 64
const folder = new URL('../../fixtures/slim/', import.meta.url)
const errors = JSON.parse(readFileSync(new URL('errors.json', folder), 'utf8')).relative_output_error

const relative = (value: number, golden: number) => Math.abs(value / golden - 1)
/** Share of elements that are within `tolerance` times the golden magnitude (plus a millionth). */
function agreement(values: ArrayLike<number>, golden: ArrayLike<number>, tolerance: number): number {
  let agree = 0
  for (let i = 0; i < golden.length; i++)
    if (Math.abs(values[i]! - golden[i]!) <= tolerance * Math.abs(golden[i]!) + 1e-6) agree++
  return agree / golden.length
}

async function hessianOf(inputs: NativeTensor, keepEvery = 1): Promise<NativeHessian> {
  const [sequences, tokens, channels] = inputs.shape as [number, number, number]
  const x = native.tensorFrom(inputs.toFloat32Array(), 'F32', [sequences * tokens, channels])
  const hessian = new native.Hessian(channels, keepEvery)
  await run(hessian.add(x, sequences, threads))
  return hessian
}

const best = native.instructionSet()
const cases = native.instructionSets().flatMap((set) => [['w2', 2, set] as const, ['w3', 3, set] as const])

describe.each(cases)('golden vectors %s (%i bits) with %s', (name, bits, set) => {
  beforeAll(() => native.setInstructionSet(set))
  afterAll(() => native.setInstructionSet(best))

  const golden = readSafetensors(new URL(`${name}.safetensors`, folder))
  const goldenBits = Uint8Array.from(golden.bits!.toFloat32Array())
  const weight = golden.weight!
  const [rows, cols] = weight.shape as [number, number]
  const quantizeLinear = async (options: Omit<QuantizeLinearOptions, 'bits' | 'groupSize'>) =>
    run(
      native.quantizeLinear(
        weight,
        await hessianOf(golden.inputs!),
        { bits, groupSize, ...options },
        threads,
      ),
    )

  it('the Hessian', async () => {
    const h = (await hessianOf(golden.inputs!)).matrix()
    const expected = golden.hessian!.toFloat32Array()
    expect(relativeDifference(h.toFloat32Array(), expected)).toBeLessThan(1e-6)
  })

  it('salience of every group', async () => {
    const salience = await run(native.groupSalience(weight, golden.hessian!, groupSize, threads))
    const expected = golden.group_salience!.toFloat32Array()
    for (let g = 0; g < expected.length; g++) expect(relative(salience[g]!, expected[g]!)).toBeLessThan(2e-3)
  })

  it('KL of every candidate and the bit map', async () => {
    const samples = native.tensorFrom(golden.inputs!.toFloat32Array(), 'F32', [4 * 64, cols])
    const salience = Float64Array.from(golden.group_salience!.toFloat32Array())
    const options = { bits, groupSize, sequences: 4 }
    const { groupBits, kl } = await run(native.allocateBits(weight, samples, salience, options, threads))
    expect(groupBits).toEqual(goldenBits)
    const expected = golden.kl!.toFloat32Array()
    expect(kl.length).toBe(expected.length)
    for (let i = 0; i < kl.length; i++) expect(relative(kl[i]!, expected[i]!)).toBeLessThan(1e-5)
  })

  it('round to nearest: all codes, scales within float16', async () => {
    const uniform = new Uint8Array(cols / groupSize).fill(bits)
    const packed = await run(native.fitGroups(weight, uniform, { groupSize, quantizer: 'minmax' }, threads))
    const q = (await run(packed.dequantize(threads))).toFloat32Array()
    // Scales are rounded to float16 before the codes are: a weight at a rounding boundary can take the other code.
    expect(agreement(q, golden.rtn!.toFloat32Array(), 6e-4)).toBeGreaterThan(0.998)
  })

  it('scales and zero points of the SliM quantizer along GPTQ', async () => {
    const { packed } = await quantizeLinear({
      allocation: goldenBits,
      quantizer: 'sqc',
      compensation: 'gptq',
    })
    const parts = unpack(packed)
    const goldenScale = golden.scale!.toFloat32Array()
    const goldenZero = golden.zero!.toFloat32Array()
    const agrees = { scales: 0, zeros: 0 }
    const firstGroup = { scales: 0, zeros: 0 }
    for (let g = 0; g < goldenBits.length; g++)
      for (let r = 0; r < rows; r++) {
        const at = g * rows + r
        const expected = goldenZero[r * goldenBits.length + g]!
        const scale = relative(parts.scales[at]!, goldenScale[r * goldenBits.length + g]!) < 6e-4
        // Zero points exactly, means as float16.
        const tolerance = goldenBits[g] === 1 ? 6e-4 * Math.abs(expected) + 1e-6 : 0
        const zero = Math.abs(parts.offsets[at]! - expected) <= tolerance
        for (const count of g === 0 ? [agrees, firstGroup] : [agrees]) {
          if (scale) count.scales++
          if (zero) count.zeros++
        }
      }
    // Exact until GPTQ's feedback comes in: it carries the rounding of the scales to float16 into the weights that later
    // groups are fitted to (scales agree to 96 % and 85 %, zero points to 99 % and 98 %; the next test leaves that rounding out).
    expect(firstGroup).toEqual({ scales: rows, zeros: rows })
    expect(agrees.scales / parts.scales.length).toBeGreaterThan(0.8)
    expect(agrees.zeros / parts.scales.length).toBeGreaterThan(0.95)
  })

  it('all scales and zero points, where GPTQ feeds back the errors of scales before they are rounded', async () => {
    const h = (await hessianOf(golden.inputs!)).matrix()
    const options = { groupSize, quantizer: 'sqc', exactScales: true } as const
    const parts = unpack(await run(native.gptq(weight, h, goldenBits, options, threads)))
    const [goldenScale, goldenZero] = [golden.scale!.toFloat32Array(), golden.zero!.toFloat32Array()]
    const withinUlp = (value: number, expected: number) =>
      value * expected >= 0 && Math.abs(floatToHalf(value) - floatToHalf(expected)) <= 1
    const agrees = { scales: 0, zeros: 0 }
    for (let g = 0; g < goldenBits.length; g++)
      for (let r = 0; r < rows; r++) {
        const [at, goldenAt] = [g * rows + r, r * goldenBits.length + g]
        const zero = goldenZero[goldenAt]!
        if (withinUlp(parts.scales[at]!, goldenScale[goldenAt]!)) agrees.scales++
        if (goldenBits[g] === 1 ? withinUlp(parts.offsets[at]!, zero) : parts.offsets[at] === zero)
          agrees.zeros++
      }
    expect(agrees).toEqual({ scales: goldenBits.length * rows, zeros: goldenBits.length * rows })
  })

  it.each([
    ['rtn', { allocation: 'uniform', quantizer: 'minmax', compensation: 'none' }, 0.999],
    ['gptq', { allocation: 'uniform', quantizer: 'minmax', compensation: 'gptq' }, 0.93],
    ['slim', { allocation: 'sba', quantizer: 'sqc', compensation: 'gptq' }, 0.85],
  ] as const)('%s: relative output error', async (method, options, share) => {
    const result = await quantizeLinear(options)
    const q = (await run(result.packed.dequantize(threads))).toFloat32Array()
    // GPTQ is chaotic where a weight is near a rounding boundary: 95 to 99 % of gptq's weights and 89 to 98 % of slim's
    // agree, and the error of all of them together.
    expect(agreement(q, golden[method]!.toFloat32Array(), 2e-3)).toBeGreaterThan(share)
    expect(relative(result.relativeError, errors[name][method])).toBeLessThan(0.01)
  })
})
