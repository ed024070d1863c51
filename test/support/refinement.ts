/** The refinement after GPTQ in float64 by plain loops (METHODS: section 2), the oracle of native/quant/refinement. */
import { addon, type NativeHessian, type QuantizeLinearOptions, run } from '../../lib/native/addon.js'
import { floatToHalf, halfToFloat } from './half.js'
import { dequantizeParts, type Parts } from './packed.js'
import { normals } from './random.js'
import { round } from './reference.js'

const roundToHalf = (x: number) => halfToFloat(floatToHalf(x))

export interface RefinedLayer {
  w: Float32Array
  hessian: NativeHessian
  /** Of the objective, float64: Σ XᵀX with GPTQ's λ. */
  h: Float64Array
  options: QuantizeLinearOptions
}

/** A layer with correlated inputs; every eleventh channel is dead if `dead`. Two sequences: 2/N is 1. */
export function layerMaker(newHessian: (cols: number) => NativeHessian) {
  return async (
    rows: number,
    cols: number,
    groupSize: number,
    widths: readonly number[],
    { seed = rows, dead = false } = {},
  ): Promise<RefinedLayer> => {
    const tokens = Math.min(2 * cols, 300)
    const isDead = (j: number) => dead && j % 11 === 3
    const x = normals(seed + 1, tokens * cols)
    for (let i = 1; i < x.length; i++) if (i % cols > 0) x[i] = 0.8 * x[i - 1]! + 0.6 * x[i]!
    x.forEach((_, i) => {
      if (isDead(i % cols)) x[i] = 0
    })
    const hessian = newHessian(cols)
    await run(hessian.add(addon().tensorFrom(x, 'F32', [tokens, cols]), 2, 1))
    const h = Float64Array.from(hessian.matrix().toFloat32Array())
    let mean = 0
    for (let j = 0; j < cols; j++) mean += (isDead(j) ? 1 : h[j * cols + j]!) / cols
    for (let j = 0; j < cols; j++) h[j * cols + j]! += 0.01 * mean
    const w = normals(seed, rows * cols).map((value, i) => {
      if (isDead(i % cols)) return 0
      const kind = Math.floor(i / cols) % 9
      return kind === 4 ? 0 : kind === 5 ? 0.25 : value
    })
    const count = Math.ceil(cols / groupSize)
    const allocation = Uint8Array.from({ length: count }, (_, g) => widths[g % widths.length]!)
    return {
      w,
      hessian,
      h,
      options: { bits: 2, groupSize, allocation, quantizer: 'wide', compensation: 'gptq' },
    }
  }
}

/** tr((W − Q) H (W − Q)ᵀ) */
export function objectiveOf(
  w: ArrayLike<number>,
  q: ArrayLike<number>,
  h: ArrayLike<number>,
  cols: number,
): number {
  let sum = 0
  for (let at = 0; at < w.length; at += cols)
    for (let i = 0; i < cols; i++) {
      const error = w[at + i]! - q[at + i]!
      for (let j = 0; j < cols; j++) sum += error * h[i * cols + j]! * (w[at + j]! - q[at + j]!)
    }
  return sum
}

/** One sweep over all groups: of each the scale (and the mean), then its codes, one after the other. */
export function refineSweep(w: ArrayLike<number>, h: ArrayLike<number>, parts: Parts): Parts {
  const refined = { ...parts, codes: parts.codes.slice(), scales: parts.scales.slice() }
  refined.offsets = parts.offsets.slice()
  const q = dequantizeParts(parts)
  for (let r = 0; r < parts.rows; r++) new RowRefinement(w, h, q, refined, r).run()
  return refined
}

class RowRefinement {
  private readonly gradient: Float64Array
  private readonly at: number

  constructor(
    w: ArrayLike<number>,
    private readonly h: ArrayLike<number>,
    q: ArrayLike<number>,
    private readonly parts: Parts,
    private readonly row: number,
  ) {
    const { cols } = parts
    this.at = row * cols
    this.gradient = new Float64Array(cols)
    for (let i = 0; i < cols; i++) this.move(i, w[this.at + i]! - q[this.at + i]!)
  }

  run(): void {
    for (const [group, bits] of this.parts.groupBits.entries()) {
      if (bits === 1) this.moveScaleAndMean(group)
      else this.moveScale(group)
      this.moveCodes(group, bits)
    }
  }

  /** G follows a change of W − Q in column i. */
  private move(i: number, change: number): void {
    const { cols } = this.parts
    for (let j = 0; j < cols; j++) this.gradient[j]! += change * this.h[i * cols + j]!
  }

  private columns(group: number): number[] {
    const { cols, groupSize } = this.parts
    const begin = group * groupSize
    return Array.from({ length: Math.min(groupSize, cols - begin) }, (_, j) => begin + j)
  }

  /** Levels c: signs, or code − zero point. */
  private level(group: number, j: number): number {
    const { rows, groupBits, codes, offsets } = this.parts
    const code = codes[this.at + j]!
    return groupBits[group] === 1 ? 2 * code - 1 : code - offsets[group * rows + this.row]!
  }

  private moveScale(group: number): void {
    const { scales, rows } = this.parts
    const index = group * rows + this.row
    const columns = this.columns(group)
    const c = columns.map((j) => this.level(group, j))
    const curvature = this.form(columns, c, c)
    const slope = columns.reduce((sum, j, k) => sum + this.gradient[j]! * c[k]!, 0)
    if (!(curvature > 0)) return
    const moved = roundToHalf(scales[index]! + slope / curvature)
    const step = moved - scales[index]!
    if (!(moved > 0) || !Number.isFinite(moved) || !(step * (step * curvature - 2 * slope) < 0)) return
    scales[index] = moved
    for (const [k, j] of columns.entries()) this.move(j, -step * c[k]!)
  }

  private moveScaleAndMean(group: number): void {
    const { scales, offsets, rows } = this.parts
    const index = group * rows + this.row
    const columns = this.columns(group)
    const c = columns.map((j) => this.level(group, j))
    const ones = c.map(() => 1)
    const [cc, c1, one] = [
      this.form(columns, c, c),
      this.form(columns, c, ones),
      this.form(columns, ones, ones),
    ]
    const slope = columns.reduce((sum, j, k) => sum + this.gradient[j]! * c[k]!, 0)
    const rise = columns.reduce((sum, j) => sum + this.gradient[j]!, 0)
    const determinant = cc * one - c1 * c1
    if (scales[index] === 0 || !(determinant > 1e-6 * cc * one)) return
    const scale = roundToHalf(scales[index]! + (one * slope - c1 * rise) / determinant)
    const mean = roundToHalf(offsets[index]! + (cc * rise - c1 * slope) / determinant)
    const [ds, dm] = [scale - scales[index]!, mean - offsets[index]!]
    const change = ds * ds * cc + 2 * ds * dm * c1 + dm * dm * one - 2 * (ds * slope + dm * rise)
    if (!(scale > 0) || !Number.isFinite(scale) || !Number.isFinite(mean) || !(change < 0)) return
    scales[index] = scale
    offsets[index] = mean
    for (const [k, j] of columns.entries()) this.move(j, -(ds * c[k]! + dm))
  }

  private moveCodes(group: number, bits: number): void {
    const { scales, offsets, codes, rows, cols } = this.parts
    const [scale, offset] = [scales[group * rows + this.row]!, offsets[group * rows + this.row]!]
    for (const j of this.columns(group)) {
      const level = this.level(group, j)
      const target = scale * level + this.gradient[j]! / this.h[j * cols + j]!
      const moved =
        bits === 1
          ? Math.sign(target) || level
          : Math.min(Math.max(round(target / scale), -offset), 2 ** bits - 1 - offset)
      codes[this.at + j] = bits === 1 ? (moved + 1) / 2 : moved + offset
      this.move(j, scale * (level - moved))
    }
  }

  /** a H bᵀ over the columns. */
  private form(columns: number[], a: number[], b: number[]): number {
    const { cols } = this.parts
    let sum = 0
    for (const [k, i] of columns.entries())
      for (const [l, j] of columns.entries()) sum += a[k]! * this.h[i * cols + j]! * b[l]!
    return sum
  }
}
