// Numbers as exact dyadic fractions (an integer times a power of two), and their rounding to a binary format: the
// reference that the emulator's arithmetic is held against, made without any floating-point operation.

export interface Format {
  /** Stored bits of the fraction, and of the exponent. */
  fraction: number
  exponent: number
}

export const formats = {
  f16: { fraction: 10, exponent: 5 },
  bf16: { fraction: 7, exponent: 8 },
  f32: { fraction: 23, exponent: 8 },
  f64: { fraction: 52, exponent: 11 },
} satisfies Record<string, Format>

export type Mode = 'rn' | 'rz' | 'rm' | 'rp'
export type Exact = 'nan' | 'inf' | '-inf' | { n: bigint; e: number; negativeZero?: boolean }

const bitsOf = ({ fraction, exponent }: Format) => ({
  sign: 1n << BigInt(fraction + exponent),
  infinity: ((1n << BigInt(exponent)) - 1n) << BigInt(fraction),
  bias: 2 ** (exponent - 1) - 1,
})

export function decode(bits: bigint, format: Format): Exact {
  const { sign, infinity, bias } = bitsOf(format)
  const negative = (bits & sign) !== 0n
  const magnitude = bits & (sign - 1n)
  if (magnitude > infinity) return 'nan'
  if (magnitude === infinity) return negative ? '-inf' : 'inf'
  const stored = Number(magnitude >> BigInt(format.fraction))
  const low = magnitude & ((1n << BigInt(format.fraction)) - 1n)
  const n = stored === 0 ? low : low | (1n << BigInt(format.fraction))
  const e = Math.max(stored, 1) - bias - format.fraction
  return { n: negative ? -n : n, e, negativeZero: negative && n === 0n }
}

/** The canonical NaN, as the hardware writes it. */
function canonicalNaN(format: Format): bigint {
  if (format.fraction === 52) return 0x7ff8000000000000n
  return (1n << BigInt(format.fraction + format.exponent)) - 1n
}

export function encode(x: Exact, format: Format, mode: Mode = 'rn'): bigint {
  const { sign, infinity, bias } = bitsOf(format)
  if (x === 'nan') return canonicalNaN(format)
  if (x === 'inf') return infinity
  if (x === '-inf') return sign | infinity
  if (x.n === 0n) return x.negativeZero ? sign : 0n
  const negative = x.n < 0n
  const signBits = negative ? sign : 0n
  const n = negative ? -x.n : x.n
  const length = n.toString(2).length
  // The exponent of the last place: of a normal number, or the subnormal one.
  const last = Math.max(length - 1 + x.e - format.fraction, 1 - bias - format.fraction)
  const shift = last - x.e
  let kept = shift > 0 ? n >> BigInt(shift) : n << BigInt(-shift)
  const rest = shift > 0 ? n - (kept << BigInt(shift)) : 0n
  const half = shift > 0 ? 1n << BigInt(shift - 1) : 1n
  const up =
    mode === 'rn'
      ? rest > half || (rest === half && (kept & 1n) === 1n)
      : rest !== 0n && ((mode === 'rp' && !negative) || (mode === 'rm' && negative))
  if (up) kept += 1n
  const biased = BigInt(last + format.fraction + bias - 1)
  // The hidden bit adds one to the exponent; a carry out of the fraction does so once more.
  const magnitude = kept >> BigInt(format.fraction) === 0n ? kept : (biased << BigInt(format.fraction)) + kept
  if (magnitude < infinity) return signBits | magnitude
  const toLargest = mode === 'rz' || (mode === 'rm' && !negative) || (mode === 'rp' && negative)
  return signBits | (toLargest ? infinity - 1n : infinity)
}

const isNumber = (x: Exact): x is { n: bigint; e: number; negativeZero?: boolean } => typeof x === 'object'
const isNegative = (x: Exact) => (isNumber(x) ? x.n < 0n || x.negativeZero === true : x === '-inf')
const infinityOf = (negative: boolean): Exact => (negative ? '-inf' : 'inf')

export function negate(x: Exact): Exact {
  if (!isNumber(x)) return x === 'nan' ? x : infinityOf(x === 'inf')
  return { n: -x.n, e: x.e, negativeZero: x.n === 0n && !x.negativeZero }
}

export function multiply(a: Exact, b: Exact): Exact {
  if (a === 'nan' || b === 'nan') return 'nan'
  const negative = isNegative(a) !== isNegative(b)
  if (!isNumber(a) || !isNumber(b)) {
    const zero = (isNumber(a) && a.n === 0n) || (isNumber(b) && b.n === 0n)
    return zero ? 'nan' : infinityOf(negative)
  }
  const n = a.n * b.n
  return { n, e: a.e + b.e, negativeZero: n === 0n && negative }
}

export function add(a: Exact, b: Exact, mode: Mode = 'rn'): Exact {
  if (a === 'nan' || b === 'nan') return 'nan'
  if (!isNumber(a)) return isNumber(b) || a === b ? a : 'nan'
  if (!isNumber(b)) return b
  const e = Math.min(a.e, b.e)
  const n = (a.n << BigInt(a.e - e)) + (b.n << BigInt(b.e - e))
  const bothNegative = isNegative(a) && isNegative(b)
  const mixed = isNegative(a) !== isNegative(b)
  return { n, e, negativeZero: n === 0n && (bothNegative || (mixed && mode === 'rm')) }
}
