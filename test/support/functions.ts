/** The activations in float64. */

/** Its Taylor series below 3, then a continued fraction. */
export function erfc(x: number): number {
  if (x < 0) return 2 - erfc(-x)
  if (x < 3) {
    let [term, sum] = [x, x]
    for (let n = 1; Math.abs(term) > 1e-18 * Math.abs(sum); n++) {
      term *= (-x * x) / n
      sum += term / (2 * n + 1)
    }
    return 1 - (2 / Math.sqrt(Math.PI)) * sum
  }
  let fraction = x
  for (let n = 60; n > 0; n--) fraction = x + n / 2 / fraction
  return Math.exp(-x * x) / (fraction * Math.sqrt(Math.PI))
}

export const silu = (x: number) => x / (1 + Math.exp(-x))
export const gelu = (x: number) => (x / 2) * erfc(-x / Math.SQRT2)
export const geluTanh = (x: number) =>
  x / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))

/** The derivatives of the activations in float64. */

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x))
export const siluGradient = (x: number) => sigmoid(x) * (1 + x * (1 - sigmoid(x)))
export const geluGradient = (x: number) =>
  erfc(-x / Math.SQRT2) / 2 + (x * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI)
export const geluTanhGradient = (x: number) => {
  const c = Math.sqrt(2 / Math.PI)
  const tanh = Math.tanh(c * (x + 0.044715 * x ** 3))
  return (1 + tanh) / 2 + (x / 2) * (1 - tanh ** 2) * c * (1 + 3 * 0.044715 * x ** 2)
}
