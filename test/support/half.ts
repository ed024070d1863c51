/** Plain conversions between float32 and float16, as references. */

export function halfToFloat(half: number): number {
  const sign = half & 0x8000 ? -1 : 1
  const exponent = (half >> 10) & 31
  const mantissa = half & 1023
  if (exponent === 31) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return sign * (exponent === 0 ? mantissa * 2 ** -24 : (1024 + mantissa) * 2 ** (exponent - 25))
}

/** Round to nearest, ties to even. */
export function floatToHalf(value: number): number {
  if (Number.isNaN(value)) return 0x7e00
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0
  const size = Math.abs(value)
  const exponent = Math.max(-14, Math.floor(Math.log2(size || 2 ** -14)))
  const scaled = size / 2 ** (exponent - 10)
  let rounded = Math.floor(scaled)
  const rest = scaled - rounded
  if (rest > 0.5 || (rest === 0.5 && rounded % 2 === 1)) ++rounded
  // rounded counts units of the last place; adding carries into the exponent by itself.
  const bits = exponent === -14 ? rounded : rounded + (exponent + 14) * 1024
  return sign | Math.min(bits, 0x7c00)
}

export function halves(values: ArrayLike<number>): Uint16Array {
  return Uint16Array.from(values, floatToHalf)
}
