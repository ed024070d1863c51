// Random weights in float16, as fast as a benchmark that makes a model of gigabytes needs them.

/** mulberry32: uniform in [0, 1). */
function generator(state) {
  let a = state >>> 0
  return () => {
    a = (a + 0x6d2b79f5) >>> 0
    let t = Math.imul(a ^ (a >>> 15), a | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** A positive or negative normal float16: sign, exponent and mantissa of the nearest below. */
function toHalf(value) {
  const size = Math.abs(value)
  if (size < 2 ** -14) return 0
  const exponent = Math.floor(Math.log2(size))
  const mantissa = Math.floor((size / 2 ** exponent - 1) * 1024)
  return (value < 0 ? 0x8000 : 0) | ((exponent + 15) << 10) | mantissa
}

const TABLE_LENGTH = 2 ** 20

/**
 * A function of a shape [rows, cols] that gives the bytes of float16 weights, normal with the deviation cols^-½ or the
 * one given. Random numbers are drawn once for each row length; every row begins elsewhere among them.
 */
export function randomWeights(seed) {
  const random = generator(seed)
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
  const tables = new Map()
  const tableOf = (cols, deviation) => {
    const key = `${cols} ${deviation}`
    if (!tables.has(key))
      tables.set(
        key,
        Uint16Array.from({ length: TABLE_LENGTH + cols }, () => toHalf(normal() * deviation)),
      )
    return tables.get(key)
  }
  return ([rows, cols], deviation = cols ** -0.5) => {
    const table = tableOf(cols, deviation)
    const values = new Uint16Array(rows * cols)
    for (let row = 0; row < rows; row++) {
      const start = Math.floor(random() * TABLE_LENGTH)
      values.set(table.subarray(start, start + cols), row * cols)
    }
    return Buffer.from(values.buffer)
  }
}
