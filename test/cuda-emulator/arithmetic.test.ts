// Each arithmetic instruction against a reference written in another way, over special and random operands.
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  add,
  decode,
  type Exact,
  encode,
  type Format,
  formats,
  type Mode,
  multiply,
  negate,
} from './exact.js'
import { Bench, buffer, buildTimeout } from './support.js'

type Reference = (...sources: bigint[]) => bigint

interface Instruction {
  /** The PTX, with d for the result and a, b, c for the sources. */
  ptx: string
  /** Bits of the result and of each source. */
  bits: number[]
  reference: Reference
  /** Kinds of operands; integers by default. */
  operands?: keyof typeof formats | 'shift'
}

const mask = (bits: number) => (1n << BigInt(bits)) - 1n
const unsigned = (x: bigint, bits: number) => BigInt.asUintN(bits, x)
const signed = (x: bigint, bits: number) => BigInt.asIntN(bits, x)
const minimum = (a: bigint, b: bigint) => (a < b ? a : b)
const maximum = (a: bigint, b: bigint) => (a > b ? a : b)

function integers(): Instruction[] {
  const list: Instruction[] = []
  for (const bits of [16, 32, 64]) {
    const [s, u, b] = [`s${bits}`, `u${bits}`, `b${bits}`]
    const two = (ptx: string, reference: Reference, operands?: 'shift') =>
      list.push({
        ptx: `${ptx} d, a, b;`,
        bits: operands ? [bits, bits, 32] : [bits, bits, bits],
        reference,
        operands,
      })
    two(`add.${u}`, (x, y) => x + y)
    two(`sub.${s}`, (x, y) => x - y)
    two(`mul.lo.${s}`, (x, y) => x * y)
    two(`mul.hi.${u}`, (x, y) => (x * y) >> BigInt(bits))
    two(`mul.hi.${s}`, (x, y) => (signed(x, bits) * signed(y, bits)) >> BigInt(bits))
    two(`min.${s}`, (x, y) => minimum(signed(x, bits), signed(y, bits)))
    two(`max.${u}`, maximum)
    two(`max.${s}`, (x, y) => maximum(signed(x, bits), signed(y, bits)))
    two(`div.${u}`, (x, y) => (y === 0n ? mask(bits) : x / y))
    two(`div.${s}`, (x, y) => (y === 0n ? mask(bits) : signed(x, bits) / signed(y, bits)))
    two(`rem.${u}`, (x, y) => (y === 0n ? x : x % y))
    two(`rem.${s}`, (x, y) => (y === 0n ? x : signed(x, bits) % signed(y, bits)))
    two(`and.${b}`, (x, y) => x & y)
    two(`or.${b}`, (x, y) => x | y)
    two(`xor.${b}`, (x, y) => x ^ y)
    two(`shl.${b}`, (x, n) => (n >= bits ? 0n : x << n), 'shift')
    two(`shr.${u}`, (x, n) => (n >= bits ? 0n : x >> n), 'shift')
    two(`shr.${s}`, (x, n) => signed(x, bits) >> minimum(n, BigInt(bits)), 'shift')
    const one = (ptx: string, reference: Reference, result = bits) =>
      list.push({ ptx: `${ptx} d, a;`, bits: [result, bits], reference })
    one(`neg.${s}`, (x) => -x)
    one(`abs.${s}`, (x) => (signed(x, bits) < 0n ? -x : x))
    one(`not.${b}`, (x) => ~x)
    list.push({
      ptx: `mad.lo.${s} d, a, b, c;`,
      bits: [bits, bits, bits, bits],
      reference: (x, y, z) => x * y + z,
    })
    if (bits < 64) {
      list.push({ ptx: `mul.wide.${u} d, a, b;`, bits: [2 * bits, bits, bits], reference: (x, y) => x * y })
      list.push({
        ptx: `mad.wide.${s} d, a, b, c;`,
        bits: [2 * bits, bits, bits, 2 * bits],
        reference: (x, y, z) => signed(x, bits) * signed(y, bits) + z,
      })
    }
    if (bits === 16) continue
    const digits = (x: bigint) => x.toString(2).padStart(bits, '0')
    one(`popc.${b}`, (x) => BigInt(digits(x).replaceAll('0', '').length), 32)
    one(`clz.${b}`, (x) => BigInt(x === 0n ? bits : digits(x).indexOf('1')), 32)
    one(`brev.${b}`, (x) => BigInt(`0b${[...digits(x)].reverse().join('')}`))
    one(`bfind.${u}`, (x) => (x === 0n ? -1n : BigInt(x.toString(2).length - 1)), 32)
    const field = (x: bigint, at: bigint, n: bigint) => (x >> at) & ((1n << n) - 1n)
    list.push({
      ptx: `{ .reg .b32 p, n; and.b32 p, b, 31; and.b32 n, c, 15; bfe.${u} d, a, p, n; }`,
      bits: [bits, bits, 32, 32],
      reference: (x, p, n) => field(x, p & 31n, n & 15n),
    })
    // Any position and length, as counts of up to 255: the field may reach past the top, or begin there.
    list.push({
      ptx: `{ .reg .b32 p, n; and.b32 p, b, 0x1ff; shr.u32 n, c, 20; bfe.${s} d, a, p, n; }`,
      bits: [bits, bits, 32, 32],
      reference: (x, b, c) => {
        const [at, n] = [b & 255n, (c >> 20n) & 255n]
        if (n === 0n) return 0n
        const top = at + n - 1n < bits ? at + n - 1n : BigInt(bits - 1)
        const sign = (x >> top) & 1n
        let all = 0n
        for (let i = 0n; i < bits; i++) {
          all |= (i < n && at + i < bits ? (x >> (at + i)) & 1n : sign) << i
        }
        return all
      },
    })
    list.push({
      ptx: `{ .reg .b32 n; and.b32 n, c, 15; bfi.b${bits} d, a, b, 5, n; }`,
      bits: [bits, bits, bits, 32],
      reference: (x, y, n) => (y & ~(((1n << (n & 15n)) - 1n) << 5n)) | (field(x, 0n, n & 15n) << 5n),
    })
    list.push({
      ptx: `{ .reg .b32 n; and.b32 n, b, 15; bfe.${s} d, a, 3, n; }`,
      bits: [bits, bits, 32],
      reference: (x, n) => signed(field(x, 3n, n & 15n), Number(n & 15n)),
    })
  }
  const bytes = (x: bigint, isSigned: boolean) =>
    [0n, 8n, 16n, 24n].map((at) => (isSigned ? signed((x >> at) & 255n, 8) : (x >> at) & 255n))
  const dot = (x: bigint, y: bigint, sx: boolean, sy: boolean) =>
    bytes(x, sx).reduce((sum, byte, i) => sum + byte * bytes(y, sy)[i]!, 0n)
  const words = [32, 32, 32, 32]
  for (const [ta, tb] of [
    ['s32', 's32'],
    ['u32', 'u32'],
    ['s32', 'u32'],
    ['u32', 's32'],
  ] as const) {
    list.push({
      ptx: `dp4a.${ta}.${tb} d, a, b, c;`,
      bits: words,
      reference: (x, y, z) => dot(x, y, ta === 's32', tb === 's32') + z,
    })
  }
  for (const table of [0xea, 0x6a, 0x96, 0xca, 0x01, 0xfe, 0x00]) {
    list.push({
      ptx: `lop3.b32 d, a, b, c, ${table};`,
      bits: words,
      reference: (x, y, z) => {
        let result = 0n
        for (let i = 0n; i < 32n; i++) {
          const index = (((x >> i) & 1n) << 2n) | (((y >> i) & 1n) << 1n) | ((z >> i) & 1n)
          result |= ((BigInt(table) >> index) & 1n) << i
        }
        return result
      },
    })
  }
  list.push({
    ptx: 'prmt.b32 d, a, b, c;',
    bits: words,
    reference: (x, y, z) => {
      const pool = [...bytes(x, false), ...bytes(y, false)]
      return [0n, 4n, 8n, 12n].reduce((result, at, i) => {
        const selector = Number((z >> at) & 15n)
        const byte = pool[selector & 7]!
        return result | ((selector & 8 ? (byte & 128n ? 255n : 0n) : byte) << BigInt(8 * i))
      }, 0n)
    },
  })
  // The address of the last source is still in %at.
  list.push({
    ptx: '{ .reg .b16 h; ld.global.s8 h, [%at]; mov.b32 d, {h, h}; }',
    bits: [32, 32],
    reference: (x) => (unsigned(signed(x, 8), 16) << 16n) | unsigned(signed(x, 8), 16),
  })
  for (const [mode, selectors] of [
    ['f4e', (c: number, i: number) => c + i],
    ['b4e', (c: number, i: number) => (c - i + 8) % 8],
    ['rc8', (c: number) => c],
    ['ecl', (c: number, i: number) => Math.max(c, i)],
    ['ecr', (c: number, i: number) => Math.min(c, i)],
    ['rc16', (c: number, i: number) => 2 * (c & 1) + (i & 1)],
  ] as const) {
    list.push({
      ptx: `prmt.b32.${mode} d, a, b, c;`,
      bits: words,
      reference: (x, y, z) => {
        const pool = [...bytes(x, false), ...bytes(y, false)]
        return [0, 1, 2, 3].reduce(
          (all, i) => all | (pool[selectors(Number(z & 3n), i)]! << BigInt(8 * i)),
          0n,
        )
      },
    })
  }
  const join = (x: bigint, y: bigint) => (y << 32n) | x
  list.push({
    ptx: 'shf.r.wrap.b32 d, a, b, c;',
    bits: words,
    reference: (x, y, n) => join(x, y) >> (n & 31n),
  })
  list.push({
    ptx: 'shf.l.wrap.b32 d, a, b, c;',
    bits: words,
    reference: (x, y, n) => (join(x, y) << (n & 31n)) >> 32n,
  })
  list.push({
    ptx: 'shf.r.clamp.b32 d, a, b, c;',
    bits: words,
    reference: (x, y, n) => join(x, y) >> minimum(n, 32n),
    operands: 'shift',
  })
  list.push({
    ptx: 'shf.l.clamp.b32 d, a, b, c;',
    bits: words,
    reference: (x, y, n) => (join(x, y) << minimum(n, 32n)) >> 32n,
    operands: 'shift',
  })
  list.push({
    ptx: '{ .reg .b32 l, h; add.cc.u32 l, a, b; addc.u32 h, a, c; xor.b32 d, l, h; }',
    bits: words,
    reference: (x, y, z) => ((x + y) & mask(32)) ^ ((x + z + ((x + y) >> 32n)) & mask(32)),
  })
  list.push({
    ptx: '{ .reg .b32 l, h; sub.cc.u32 l, a, b; subc.u32 h, a, c; xor.b32 d, l, h; }',
    bits: words,
    reference: (x, y, z) => unsigned(x - y, 32) ^ unsigned(x - z - (x < y ? 1n : 0n), 32),
  })
  list.push({
    ptx: 'sad.s32 d, a, b, c;',
    bits: words,
    reference: (x, y, z) => z + maximum(signed(x, 32), signed(y, 32)) - minimum(signed(x, 32), signed(y, 32)),
  })
  list.push({
    ptx: '{ .reg .pred p, q; setp.lt.s32 p|q, a, b; @p add.s32 d, a, c; @q sub.s32 d, b, c; }',
    bits: words,
    reference: (x, y, z) => (signed(x, 32) < signed(y, 32) ? x + z : y - z),
  })
  list.push({
    ptx: 'slct.b32.s32 d, a, b, c;',
    bits: words,
    reference: (x, y, z) => (signed(z, 32) >= 0n ? x : y),
  })
  return list
}

const ptxName = { f16: 'f16', bf16: 'bf16', f32: 'f32', f64: 'f64' } as const

function floats(): Instruction[] {
  const list: Instruction[] = []
  for (const name of Object.keys(formats) as (keyof typeof formats)[]) {
    const format: Format = formats[name]
    const bits = format.fraction + format.exponent + 1
    const read = (x: bigint) => decode(x, format)
    const directed: Mode[] = name === 'f16' || name === 'bf16' ? ['rn'] : ['rn', 'rz', 'rm', 'rp']
    for (const mode of directed) {
      const write = (x: Exact) => encode(x, format, mode)
      list.push({
        ptx: `fma.${mode}.${ptxName[name]} d, a, b, c;`,
        bits: [bits, bits, bits, bits],
        operands: name,
        reference: (a, b, c) => write(add(multiply(read(a), read(b)), read(c), mode)),
      })
      if (name === 'bf16') continue // add and mul of bf16 need sm_90
      list.push({
        ptx: `add.${mode}.${ptxName[name]} d, a, b;`,
        bits: [bits, bits, bits],
        operands: name,
        reference: (a, b) => write(add(read(a), read(b), mode)),
      })
      list.push({
        ptx: `sub.${mode}.${ptxName[name]} d, a, b;`,
        bits: [bits, bits, bits],
        operands: name,
        reference: (a, b) => write(add(read(a), negate(read(b)), mode)),
      })
      list.push({
        ptx: `mul.${mode}.${ptxName[name]} d, a, b;`,
        bits: [bits, bits, bits],
        operands: name,
        reference: (a, b) => write(multiply(read(a), read(b))),
      })
    }
    const pairs =
      (reference: Reference): Reference =>
      (...s) => {
        const half = (shift: bigint) => reference(...s.map((x) => (x >> shift) & 0xffffn))
        return (half(16n) << 16n) | half(0n)
      }
    if (bits === 16) {
      const fma: Reference = (a, b, c) => encode(add(multiply(read(a), read(b)), read(c)), format)
      list.push({
        ptx: `fma.rn.${name}x2 d, a, b, c;`,
        bits: [32, 32, 32, 32],
        operands: name,
        reference: pairs(fma),
      })
    }
    if (name === 'f16') {
      list.push({
        ptx: 'add.f16x2 d, a, b;',
        bits: [32, 32, 32],
        operands: name,
        reference: pairs((a, b) => encode(add(read(a), read(b)), format)),
      })
    }
    const less = (a: Exact, b: Exact) => {
      const difference = add(a, negate(b))
      return difference === '-inf' || (typeof difference === 'object' && difference.n < 0n)
    }
    const extreme =
      (isMin: boolean): Reference =>
      (a, b) => {
        const [x, y] = [read(a), read(b)]
        if (x === 'nan') return encode(y, format)
        if (y === 'nan') return encode(x, format)
        const same =
          a === b ||
          (encode(x, format) | (1n << BigInt(bits - 1))) === (encode(y, format) | (1n << BigInt(bits - 1)))
        const firstIsLess = same ? a > b : less(x, y)
        return firstIsLess === isMin ? a : b
      }
    list.push({
      ptx: `min.${ptxName[name]} d, a, b;`,
      bits: [bits, bits, bits],
      operands: name,
      reference: extreme(true),
    })
    list.push({
      ptx: `max.${ptxName[name]} d, a, b;`,
      bits: [bits, bits, bits],
      operands: name,
      reference: extreme(false),
    })
    // Conversions from this format.
    for (const to of ['f16', 'bf16', 'f32', 'f64'] as const) {
      if (
        to === name ||
        (name === 'bf16' && to !== 'f32') ||
        (to === 'bf16' && name !== 'f32') ||
        name === 'bf16'
      )
        continue
      const target = formats[to]
      const narrows = target.fraction < format.fraction
      for (const mode of narrows ? (['rn', 'rz'] as const) : (['rn'] as const)) {
        list.push({
          ptx: `cvt.${narrows ? `${mode}.` : ''}${to}.${name} d, a;`,
          bits: [target.fraction + target.exponent + 1, bits],
          operands: name,
          reference: (a) => encode(read(a), target, mode),
        })
      }
    }
    if (name === 'bf16') continue
    for (const width of [8, 16, 32, 64]) {
      for (const isSigned of [true, false]) {
        for (const [suffix, mode] of [
          ['rni', 'rn'],
          ['rzi', 'rz'],
          ['rmi', 'rm'],
          ['rpi', 'rp'],
        ] as const) {
          if (width === 8 && name !== 'f32') continue
          const container = Math.max(width, 16)
          list.push({
            ptx: `cvt.${suffix}.${isSigned ? 's' : 'u'}${width}.${name} d, a;`,
            bits: [container, bits],
            operands: name,
            reference: (a) => {
              const x = read(a)
              const low = isSigned ? -(1n << BigInt(width - 1)) : 0n
              const high = isSigned ? (1n << BigInt(width - 1)) - 1n : mask(width)
              if (x === 'nan') return name === 'f64' || width === 64 ? 1n << BigInt(width - 1) : 0n
              if (x === 'inf') return high
              if (x === '-inf') return low
              return minimum(maximum(roundToInteger(x, mode), low), high)
            },
          })
        }
      }
    }
  }
  // From integers.
  for (const width of [16, 32, 64]) {
    for (const isSigned of [true, false]) {
      for (const to of ['f16', 'f32', 'f64'] as const) {
        for (const mode of ['rn', 'rz', 'rm', 'rp'] as const) {
          const format = formats[to]
          list.push({
            ptx: `cvt.${mode}.${to}.${isSigned ? 's' : 'u'}${width} d, a;`,
            bits: [format.fraction + format.exponent + 1, width],
            reference: (a) => encode({ n: isSigned ? signed(a, width) : a, e: 0 }, format, mode),
          })
        }
      }
    }
  }
  for (const [to, name] of [
    ['f16x2', 'f16'],
    ['bf16x2', 'bf16'],
  ] as const) {
    const half = (x: bigint) => encode(decode(x, formats.f32), formats[name])
    list.push({
      ptx: `cvt.rn.${to}.f32 d, a, b;`,
      bits: [32, 32, 32],
      operands: 'f32',
      reference: (a, b) => (half(a) << 16n) | half(b),
    })
  }
  // The quotient and the root of floats, rounded from doubles: 53 >= 2 * 24 + 2 bits are enough for one more rounding.
  const f32 = (x: bigint) => new Float32Array(Uint32Array.of(Number(x)).buffer)[0]!
  const back = (x: number) => {
    if (Number.isNaN(x)) return 0x7fffffffn
    return BigInt(new Uint32Array(Float32Array.of(x).buffer)[0]!)
  }
  const word = [32, 32]
  list.push({
    ptx: 'div.rn.f32 d, a, b;',
    bits: [32, 32, 32],
    operands: 'f32',
    reference: (a, b) => back(f32(a) / f32(b)),
  })
  list.push({ ptx: 'rcp.rn.f32 d, a;', bits: word, operands: 'f32', reference: (a) => back(1 / f32(a)) })
  list.push({
    ptx: 'sqrt.rn.f32 d, a;',
    bits: word,
    operands: 'f32',
    reference: (a) => back(Math.sqrt(f32(a))),
  })
  list.push({
    ptx: 'rsqrt.approx.f32 d, a;',
    bits: word,
    operands: 'f32',
    reference: (a) => back(1 / Math.sqrt(f32(a))),
  })
  list.push({ ptx: 'neg.f32 d, a;', bits: word, operands: 'f32', reference: (a) => a ^ 0x80000000n })
  list.push({ ptx: 'abs.f32 d, a;', bits: word, operands: 'f32', reference: (a) => a & 0x7fffffffn })
  const flushed = (x: number) => (Math.abs(x) < 2 ** -126 ? x * 0 : x)
  list.push({
    ptx: 'add.ftz.f32 d, a, b;',
    bits: [32, 32, 32],
    operands: 'f32',
    reference: (a, b) => back(flushed(Math.fround(flushed(f32(a)) + flushed(f32(b))))),
  })
  list.push({
    ptx: 'mul.sat.f32 d, a, b;',
    bits: [32, 32, 32],
    operands: 'f32',
    reference: (a, b) => back(Math.min(Math.max(Math.fround(f32(a) * f32(b)) || 0, 0), 1)),
  })
  list.push({
    ptx: 'cvt.rzi.f32.f32 d, a;',
    bits: word,
    operands: 'f32',
    reference: (a) => back(Math.trunc(f32(a))),
  })
  for (const [compare, test] of [
    ['lt', (x: number, y: number) => x < y],
    ['geu', (x: number, y: number) => !(x < y)],
    ['ne', (x: number, y: number) => x < y || x > y],
    ['neu', (x: number, y: number) => x !== y],
    ['num', (x: number, y: number) => !(Number.isNaN(x) || Number.isNaN(y))],
  ] as const) {
    list.push({
      ptx: `{ .reg .pred p; setp.${compare}.f32 p, a, b; selp.b32 d, 1, 0, p; }`,
      bits: [32, 32, 32],
      operands: 'f32',
      reference: (a, b) => (test(f32(a), f32(b)) ? 1n : 0n),
    })
  }
  return list
}

function roundToInteger({ n, e }: { n: bigint; e: number }, mode: Mode): bigint {
  if (e >= 0) return n << BigInt(e)
  const unit = 1n << BigInt(-e)
  const floor = n >> BigInt(-e)
  const rest = n - floor * unit
  if (rest === 0n || mode === 'rm') return floor
  if (mode === 'rp') return floor + 1n
  if (mode === 'rz') return n < 0n ? floor + 1n : floor
  const twice = 2n * rest
  return twice > unit || (twice === unit && (floor & 1n) === 1n) ? floor + 1n : floor
}

const lanes = 1024

/** Values that break things, then random bits; the same for every run. */
function operandBits(kind: Instruction['operands'], bits: number, source: number): bigint[] {
  let state = BigInt(source * 7919 + bits)
  const random = () => {
    state = BigInt.asUintN(64, state * 6364136223846793005n + 1442695040888963407n)
    return state ^ (state >> 29n)
  }
  const special: bigint[] = []
  if (kind === 'shift') {
    special.push(0n, 1n, 15n, 16n, 17n, 31n, 32n, 33n, 63n, 64n, 65n, 1000n)
  } else if (kind === undefined) {
    special.push(
      0n,
      1n,
      2n,
      mask(bits),
      mask(bits - 1),
      1n << BigInt(bits - 1),
      (1n << BigInt(bits - 1)) + 1n,
    )
  } else {
    const format = formats[kind]
    const { fraction, exponent } = format
    const one = BigInt(2 ** (exponent - 1) - 1) << BigInt(fraction)
    const infinity = ((1n << BigInt(exponent)) - 1n) << BigInt(fraction)
    const small = 1n << BigInt(fraction)
    for (const x of [
      0n,
      1n,
      2n,
      small - 1n,
      small,
      small + 1n,
      one,
      one + 1n,
      one - 1n,
      infinity - 1n,
      infinity,
      infinity + 1n,
      one + (3n << BigInt(fraction)) + 5n,
    ]) {
      special.push(x, x | (1n << BigInt(fraction + exponent)))
    }
    if (bits === 32 && fraction < 23) special.push(...special.map((x) => (x << 16n) | one))
  }
  return Array.from({ length: lanes }, (_, i) => {
    if (i < 700 && special.length > 0) {
      // Each source goes through the special values at a pace of its own, so that their pairs meet.
      return special[Math.floor(i / [1, 26, 7][source]!) % special.length]! & mask(bits)
    }
    const x = random() & mask(bits)
    if (kind === 'shift') return x % 70n
    // Some floats of like size, so that sums cancel and conversions stay in range.
    if (kind !== undefined && i % 2 === 0 && !(bits === 32 && formats[kind].fraction < 23)) {
      const { fraction, exponent } = formats[kind]
      const near = BigInt(2 ** (exponent - 1) - 1 + (Number(x % 12n) - 2))
      return (x & ~(((1n << BigInt(exponent)) - 1n) << BigInt(fraction))) | (near << BigInt(fraction))
    }
    return x
  })
}

function typedArray(bits: number, values: bigint[]): NodeJS.ArrayBufferView {
  if (bits === 64) return BigUint64Array.from(values)
  return bits === 32 ? Uint32Array.from(values, Number) : Uint16Array.from(values, Number)
}

/** One kernel: loads the sources, executes the instruction, stores the result. */
function kernelText(index: number, { ptx, bits }: Instruction): string {
  const names = ['d', 'a', 'b', 'c'].slice(0, bits.length)
  const place = (name: string, width: number) =>
    `  ld.param.u64 %base, [k${index}_${name}];\n  mad.wide.u32 %at, %thread, ${width / 8}, %base;\n`
  const loads = names
    .slice(1)
    .map((name, i) => `${place(name, bits[i + 1]!)}  ld.global.b${bits[i + 1]} ${name}, [%at];\n`)
  return `.visible .entry k${index}(${names.map((name) => `.param .u64 k${index}_${name}`).join(', ')}) {
  .reg .b32 %thread, %cta, %size;
  .reg .b64 %base, %at;
${names.map((name, i) => `  .reg .b${bits[i]} ${name};`).join('\n')}
  mov.u32 %thread, %tid.x;
  mov.u32 %cta, %ctaid.x;
  mov.u32 %size, %ntid.x;
  mad.lo.u32 %thread, %cta, %size, %thread;
${loads.join('')}  ${ptx}
${place('d', bits[0]!)}  st.global.b${bits[0]} [%at], d;
  ret;
}
`
}

describe('arithmetic', () => {
  const instructions = [...integers(), ...floats()]
  let bench: Bench
  let results: Buffer[]

  beforeAll(async () => {
    bench = await Bench.open()
    const module = bench.file(
      `.version 9.0\n.target sm_80\n.address_size 64\n${instructions.map((x, i) => kernelText(i, x)).join('')}`,
      'ptx',
    )
    const lines = ['device 0', `module ${module}`]
    const outputs: string[] = []
    instructions.forEach(({ bits, operands }, i) => {
      const buffers = bits
        .slice(1)
        .flatMap((width, source) =>
          buffer(
            bench,
            `s${i}_${source}`,
            typedArray(width, operandBits(kindOf(operands, source, bits), width, source)),
          ),
        )
      const sources = bits.slice(1).map((_, source) => `@s${i}_${source}`)
      outputs.push(bench.path(`out${i}`))
      lines.push(`allocate d${i} ${(lanes * bits[0]!) / 8}`, ...buffers)
      lines.push(`launch k${i} 4 1 1 256 1 1 0 @d${i} ${sources.join(' ')}`, `read d${i} ${outputs[i]}`)
    })
    const { outcomes } = await bench.run(lines)
    expect(outcomes.filter((o) => o.error !== 0)).toEqual([])
    results = outputs.map((file) => readFileSync(file))
  }, buildTimeout)
  afterAll(() => bench.close())

  // Of a shift only the last operand is a count.
  function kindOf(operands: Instruction['operands'], source: number, bits: number[]) {
    return operands === 'shift' && source !== bits.length - 2 ? undefined : operands
  }

  it.each(instructions.map(({ ptx }, i) => [ptx, i] as const))('%s', (_, i) => {
    const { bits, operands, reference } = instructions[i]!
    const sources = bits
      .slice(1)
      .map((width, source) => operandBits(kindOf(operands, source, bits), width, source))
    const width = bits[0]!
    const wrong: string[] = []
    for (let lane = 0; lane < lanes; lane++) {
      const given = sources.map((values) => values[lane]!)
      const expected = unsigned(reference(...given), width)
      const got =
        width === 64
          ? results[i]!.readBigUInt64LE(8 * lane)
          : BigInt(width === 32 ? results[i]!.readUInt32LE(4 * lane) : results[i]!.readUInt16LE(2 * lane))
      const isNaNOfDouble = operands !== undefined && width === 64 && decode(expected, formats.f64) === 'nan'
      if (isNaNOfDouble && decode(got, formats.f64) === 'nan') continue // the payload of a double NaN is not defined
      if (got !== expected) {
        wrong.push(
          `${given.map((x) => x.toString(16)).join(', ')}: ${got.toString(16)}, expected ${expected.toString(16)}`,
        )
      }
    }
    expect(wrong.slice(0, 5)).toEqual([])
  })
})
