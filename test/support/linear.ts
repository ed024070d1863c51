/** Small dense linear algebra in float64, for oracles. Matrices are row-major. */

/** A [m, k] · B [n, k]ᵀ. */
export function productTransposed(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  m: number,
  n: number,
  k: number,
): Float64Array {
  const c = new Float64Array(m * n)
  for (let i = 0; i < m; i++)
    for (let j = 0; j < n; j++) {
      let sum = 0
      for (let t = 0; t < k; t++) sum += a[i * k + t]! * b[j * k + t]!
      c[i * n + j] = sum
    }
  return c
}

/** (2 / sequences) XᵀX of x [tokens, n]. */
export function hessianOf(x: ArrayLike<number>, n: number, sequences: number): Float64Array {
  const h = new Float64Array(n * n)
  for (let t = 0; t < x.length / n; t++)
    for (let i = 0; i < n; i++)
      for (let j = 0; j < n; j++) h[i * n + j]! += (2 / sequences) * x[t * n + i]! * x[t * n + j]!
  return h
}

/** U, upper triangular with A⁻¹ = UᵀU: A = P Pᵀ from the last column on, U = P⁻¹. */
export function inverseFactorOf(a: ArrayLike<number>, n: number): Float64Array {
  const p = Float64Array.from(a)
  for (let j = n - 1; j >= 0; j--)
    for (let i = j; i >= 0; i--) {
      let sum = p[i * n + j]!
      for (let k = j + 1; k < n; k++) sum -= p[i * n + k]! * p[j * n + k]!
      p[i * n + j] = i === j ? Math.sqrt(sum) : sum / p[j * n + j]!
    }
  const u = new Float64Array(n * n)
  for (let j = 0; j < n; j++)
    for (let i = j; i >= 0; i--) {
      let sum = i === j ? 1 : 0
      for (let k = i + 1; k <= j; k++) sum -= p[i * n + k]! * u[k * n + j]!
      u[i * n + j] = sum / p[i * n + i]!
    }
  return u
}

/** Largest |a − b| over the largest |b|. */
export function relativeDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let difference = 0
  let largest = 0
  for (let i = 0; i < b.length; i++) {
    const d = Math.abs(a[i]! - b[i]!)
    if (!(d <= difference)) difference = d // NaN sticks
    largest = Math.max(largest, Math.abs(b[i]!))
  }
  return difference / largest
}
