// Who takes part in packed.mjs. A participant { name, bits } has, for a shape, make({ cols, rows }) → weights, and these for
// a number of tokens product({ tokens, x }) → { bytes: of the weights, turn(): seconds of a product, error(): relative,
// against float64, dispose() }.
import os from 'node:os'
import { native, randomMatrix } from '../packed_mixes.mjs'
import { randomWeights } from '../random_weights.mjs'
import { GROUP_SIZE, MIXES } from './cases.mjs'

const threads = os.availableParallelism()
export const CUBLAS = 'cuBLAS float16'

/** A sample of so many rows and tokens, the first and the last among them, in order. */
function sample(count, most) {
  if (count <= most) return Array.from({ length: count }, (_, i) => i)
  const taken = new Set([0, count - 1])
  while (taken.size < most) taken.add(Math.floor(Math.random() * count))
  return [...taken].sort((a, b) => a - b)
}
const SAMPLED_ROWS = 64
const SAMPLED_TOKENS = 16

/** What a check of products needs of float32 weights [rows, cols]: the sampled rows of them. */
function sampledRows(weights, cols) {
  return sample(weights.length / cols, SAMPLED_ROWS).map((row) => ({
    row,
    values: weights.slice(row * cols, (row + 1) * cols),
  }))
}

/** Root of the mean square of the difference, over that of the products in float64. */
function relativeError(y, { tokens, rows, cols }, x, sampled) {
  let [error, norm] = [0, 0]
  for (const token of sample(tokens, SAMPLED_TOKENS))
    for (const { row, values } of sampled) {
      let exact = 0
      for (let c = 0; c < cols; c++) exact += values[c] * x[token * cols + c]
      error += (y[token * rows + row] - exact) ** 2
      norm += exact ** 2
    }
  return Math.sqrt(error / norm)
}

/** Activations [tokens, cols] in float16: the tensor, and their values. */
export function randomActivations(tokens, cols) {
  const bytes = randomWeights(Math.random() * 2 ** 32)([tokens, cols], 1)
  const tensor = native.tensorFrom(bytes, 'F16', [tokens, cols])
  return { tensor, values: tensor.toFloat32Array() }
}

/** Copies of weights, and products that take them in turn: `coldBytes` of weights or more, each as often as the others. */
function rotation(bytes, { coldBytes, leastRepeats }) {
  const copies = Math.max(2, Math.ceil(coldBytes / bytes))
  return { copies, repeats: copies * Math.ceil(leastRepeats / copies) }
}

async function timedProduct(device, shape, x, { record, bytes, sampled }) {
  const work = new native.CudaTimedWork(device)
  await record(work)
  return {
    bytes,
    turn: () => work.turn().promise,
    /** Of the recorded product, once it was launched. */
    async error() {
      const y = await work.output().promise
      const error = relativeError(y.toFloat32Array(), shape, x.values, sampled)
      y.dispose()
      return error
    },
    dispose: () => work.dispose(),
  }
}

function packedParticipant(device, { name, widths }, limits) {
  return {
    name,
    ours: true,
    async make({ cols, rows }) {
      const groupBits = Uint8Array.from(
        { length: Math.ceil(cols / GROUP_SIZE) },
        (_, g) => widths[g % widths.length],
      )
      const matrix = randomMatrix(cols, rows, GROUP_SIZE, groupBits)
      const dense = await matrix.dequantize(threads).promise
      const sampled = sampledRows(dense.toFloat32Array(), cols)
      dense.dispose()
      const bytes = matrix.storedBytes
      const { copies, repeats } = rotation(bytes, limits)
      const matrices = []
      for (let i = 0; i < copies; i++) matrices.push(await device.packedMatrix(matrix, threads).promise)
      matrix.dispose()
      return {
        product: ({ tokens, x }) =>
          timedProduct(device, { cols, rows, tokens }, x, {
            record: (work) => work.recordPacked(matrices, x.tensor, repeats).promise,
            bytes,
            sampled,
          }),
        dispose: () =>
          matrices.forEach((copy) => {
            copy.dispose()
          }),
      }
    },
  }
}

export const ourParticipants = (device, limits) => MIXES.map((mix) => packedParticipant(device, mix, limits))

export function cublasParticipant(device, library, limits) {
  return {
    name: CUBLAS,
    make({ cols, rows }) {
      const halves = native.tensorFrom(randomWeights(Math.random() * 2 ** 32)([rows, cols]), 'F16', [
        rows,
        cols,
      ])
      const sampled = sampledRows(halves.toFloat32Array(), cols)
      const bytes = 2 * rows * cols
      const { copies, repeats } = rotation(bytes, limits)
      return {
        product: ({ tokens, x }) =>
          timedProduct(device, { cols, rows, tokens }, x, {
            record: (work) => work.recordCublas(halves, copies, x.tensor, repeats, library).promise,
            bytes,
            sampled,
          }),
        dispose: () => halves.dispose(),
      }
    },
  }
}

/** Which cuBLAS there is; throws where there is none. */
export async function describeCublas(device, library) {
  const work = new native.CudaTimedWork(device)
  const [weight, x] = [native.allocateTensor('F16', [16, 16]), native.allocateTensor('F16', [1, 16])]
  try {
    return await work.recordCublas(weight, 1, x, 1, library).promise
  } finally {
    for (const object of [work, weight, x]) object.dispose()
  }
}

/** The median of `rounds` turns of work that is recorded for it alone. */
async function timedAlone(device, rounds, record) {
  const work = new native.CudaTimedWork(device)
  await record(work)
  const times = []
  for (let round = -1; round < rounds; round++) {
    const seconds = await work.turn().promise
    if (round >= 0) times.push(seconds)
  }
  work.dispose()
  return times.sort((a, b) => a - b)[times.length >> 1]
}

/** Bytes a second that are read and written by the driver's copy. */
export async function copyRate(device, { bytes, rounds }) {
  return (2 * bytes) / (await timedAlone(device, rounds, (work) => work.recordCopies(bytes, 4).promise))
}

/** Operations a second of cuBLAS's float16 product of two matrices of `size`². */
export async function matrixRate(device, library, { size, rounds }) {
  const [weight, x] = [0, 1].map(() => {
    const bytes = randomWeights(Math.random() * 2 ** 32)([size, size])
    return native.tensorFrom(bytes, 'F16', [size, size])
  })
  const seconds = await timedAlone(
    device,
    rounds,
    (work) => work.recordCublas(weight, 1, x, 4, library).promise,
  )
  for (const tensor of [weight, x]) tensor.dispose()
  return (2 * size ** 3) / seconds
}
