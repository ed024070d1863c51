/** Every step of SliM-LLM against golden vectors of the PyTorch reference (96 rows, 512 columns, groups of 64). */
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import {
  addon,
  type NativeHessian,
  type NativeTensor,
  type QuantizeLinearOptions,
  run,
} from '../../../lib/native/addon.js'
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

describe.each([
  ['w2', 2],
  ['w3', 3],
] as const)('golden vectors %s', (name, bits) => {
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
    const largest = Math.max(...expected)
    const worst = h
      .toFloat32Array()
      .reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i]!)), 0)
    expect(worst / largest).toBeLessThan(1e-6)
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
    const scales = packed.scales().toFloat32Array()
    const zeros = packed.qzeros().toBytes()
    const goldenScale = golden.scale!.toFloat32Array()
    const goldenZero = golden.zero!.toFloat32Array()
    let scalesAgree = 0
    let zerosAgree = 0
    let firstGroup = 0
    for (let g = 0, offset = 0; g < goldenBits.length; g++) {
      const width = goldenBits[g]!
      for (let r = 0; r < rows; r++) {
        const expected = goldenScale[r * goldenBits.length + g]!
        const agrees = relative(scales[g * rows + r]!, expected) < 6e-4
        if (agrees) scalesAgree++
        if (agrees && g === 0) firstGroup++
        const zero = goldenZero[r * goldenBits.length + g]!
        if (width === 1) {
          const mean = new DataView(zeros.buffer, offset + 2 * r, 2)
          const half = native
            .tensorFrom(new Uint16Array([mean.getUint16(0, true)]), 'F16', [1])
            .toFloat32Array()[0]!
          if (Math.abs(half - zero) <= 6e-4 * Math.abs(zero) + 1e-6) zerosAgree++
        } else {
          const bit = r * width
          const word = zeros[offset + (bit >> 3)]! | ((zeros[offset + (bit >> 3) + 1] ?? 0) << 8)
          if (((word >> (bit & 7)) & ((1 << width) - 1)) === zero) zerosAgree++
        }
      }
      offset += width === 1 ? 2 * rows : Math.ceil((rows * width) / 8)
    }
    console.log(
      name,
      'scales',
      scalesAgree / scales.length,
      'zeros',
      zerosAgree / scales.length,
      'first',
      firstGroup / rows,
    )
  })

  it.each([
    ['rtn', { allocation: 'uniform', quantizer: 'minmax', compensation: 'none' }],
    ['gptq', { allocation: 'uniform', quantizer: 'minmax', compensation: 'gptq' }],
    ['slim', { allocation: 'sba', quantizer: 'sqc', compensation: 'gptq' }],
  ] as const)('%s: relative output error', async (method, options) => {
    const result = await quantizeLinear(options)
    const q = (await run(result.packed.dequantize(threads))).toFloat32Array()
    console.log(
      name,
      method,
      result.relativeError,
      errors[name][method],
      agreement(q, golden[method]!.toFloat32Array(), 2e-3),
      result.damping,
      result.seconds,
    )
    expect(relative(result.relativeError, errors[name][method])).toBeLessThan(0.01)
  })
})
