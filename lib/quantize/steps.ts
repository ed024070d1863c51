/** The steps of the method one by one (METHODS.md's equations; see docs/methods.md), on plain arrays. */
import { addon, type Quantizer, run } from '../native/addon.js'
import { checkThreads } from '../native/device.js'
import { Handles } from '../native/handles.js'
import { fromMatrix, type Matrix, type StepOptions } from '../native/matrix.js'
import { PackedMatrix } from '../packed/packed_matrix.js'

/**
 * Salience of every group of input channels: Σ w² / U_jj² over its columns and all rows, U the upper Cholesky factor
 * of (H + 0.01·I)⁻¹ (SliM-LLM, section 3.2).
 * @param weight W [out, in]
 * @param hessian H [in, in] = (2/N) Σ XᵀX
 */
export async function groupSalience(
  weight: Matrix,
  hessian: Matrix,
  { groupSize, threads, signal }: StepOptions & { groupSize: number },
): Promise<Float64Array> {
  using inputs = new Handles()
  const job = addon().groupSalience(
    inputs.own(fromMatrix('weight', weight)),
    inputs.own(fromMatrix('hessian', hessian)),
    groupSize,
    checkThreads(threads),
  )
  return await run(job, signal)
}

/**
 * Salience-determined bit allocation (SBA): the i least salient groups get bits − 1, the i most salient bits + 1; the
 * i whose softmaxed outputs diverge least, KL(quantized ‖ original), is taken.
 * @param samples rows of X [tokens, in]
 * @param sequences N, by which the KL is divided
 * @returns the bits of every group, and the KL of every candidate i = 1, 2, …
 */
export async function allocateBits(
  weight: Matrix,
  samples: Matrix,
  salience: Float64Array,
  {
    bits,
    groupSize,
    sequences = 1,
    threads,
    signal,
  }: StepOptions & { bits: number; groupSize: number; sequences?: number },
): Promise<{ groupBits: Uint8Array; kl: Float64Array }> {
  using inputs = new Handles()
  const job = addon().allocateBits(
    inputs.own(fromMatrix('weight', weight)),
    inputs.own(fromMatrix('samples', samples)),
    salience,
    { bits, groupSize, sequences },
    checkThreads(threads),
  )
  return await run(job, signal)
}

/**
 * Quantizes by scales alone, without error feedback: `minmax` is RTN, `sqc` searches the range of every (row, group),
 * `wide` scales and zero points beyond it.
 * @param groupBits bits of every group, 1 – 8
 */
export async function fitGroups(
  weight: Matrix,
  groupBits: Uint8Array,
  {
    groupSize,
    quantizer = 'minmax',
    threads,
    signal,
  }: StepOptions & { groupSize: number; quantizer?: Quantizer },
): Promise<PackedMatrix> {
  using inputs = new Handles()
  const job = addon().fitGroups(
    inputs.own(fromMatrix('weight', weight)),
    groupBits,
    { groupSize, quantizer },
    checkThreads(threads),
  )
  return new PackedMatrix(await run(job, signal))
}

/**
 * GPTQ (arXiv 2210.17323) with a group as block: the quantizer of a group is fitted on the compensated weights when
 * the sweep reaches it.
 */
export async function gptq(
  weight: Matrix,
  hessian: Matrix,
  groupBits: Uint8Array,
  {
    groupSize,
    quantizer = 'sqc',
    threads,
    signal,
  }: StepOptions & { groupSize: number; quantizer?: Quantizer },
): Promise<PackedMatrix> {
  using inputs = new Handles()
  const job = addon().gptq(
    inputs.own(fromMatrix('weight', weight)),
    inputs.own(fromMatrix('hessian', hessian)),
    groupBits,
    { groupSize, quantizer },
    checkThreads(threads),
  )
  return new PackedMatrix(await run(job, signal))
}
