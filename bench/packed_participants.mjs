// Who takes part in packed_peers.mjs. make({ cols, rows, tokens, groupSize }, threads list) gives
// { bytes: of the weights, turn(threads): mean seconds of a product, dispose }, or null where the shape cannot be had.
import path from 'node:path'
import { compileModule, here } from './native_module.mjs'
import { loadedKernels, nodeLlamaCpp } from './node_llama_cpp.mjs'
import { onnxProducts, onnxVersion } from './onnx_matmul.mjs'
import { openBlas } from './openblas.mjs'
import { ourParticipants } from './packed_mixes.mjs'

/** Weights of one participant are at least so many bytes in all, read one after the other: no cache holds them. */
const COLD_BYTES = 160 * 2 ** 20
/** A product that takes longer than reading its weights needs fewer copies. */
const COLD_TOKENS = 16
const BUSY_COPIES = 2
/** Rows that differ from each other; more are these again, since making them costs time and reading them does not care. */
const SLAB_ROWS = 64

const randomArray = (length) => Float32Array.from({ length }, () => Math.random() * 2 - 1)
const copiesOf = (bytes, tokens) => (tokens <= COLD_TOKENS ? Math.ceil(COLD_BYTES / bytes) : BUSY_COPIES)

/** x [tokens, cols] · slabᵀ [rows of the slab, cols], the first token and the last. */
function exactProducts(slab, input, cols, tokens) {
  const dot = (row, token) => {
    let sum = 0
    for (let c = 0; c < cols; c++) sum += slab[row * cols + c] * input[token * cols + c]
    return sum
  }
  const rows = slab.length / cols
  return [0, tokens - 1].flatMap((token) =>
    Array.from({ length: rows }, (_, row) => ({ token, row, value: dot(row, token) })),
  )
}

/** A product that is wrong must not be timed: `largest` relative error that the quantization explains. */
function checkProducts(name, y, rows, exact, largest) {
  let [error, norm] = [0, 0]
  for (const { token, row, value } of exact) {
    error += (y[token * rows + row] - value) ** 2
    norm += value ** 2
  }
  const relative = Math.sqrt(error / norm)
  if (!(relative < largest))
    throw new Error(`${name}: relative error ${relative}, at most ${largest} expected`)
}

function openBlasParticipant(found) {
  return {
    name: 'OpenBLAS fp32',
    bits: 32,
    make({ cols, rows, tokens }) {
      const bytes = 4 * cols * rows
      const copies = copiesOf(bytes, tokens)
      const weights = new Float32Array(copies * cols * rows).fill(0.5)
      const input = randomArray(tokens * cols)
      const output = new Float32Array(tokens * rows)
      return {
        bytes,
        turn: async (threads) => found.run(tokens, rows, cols, input, weights, output, threads, copies),
        dispose() {},
      }
    },
  }
}

/** ggml's name, bits a weight, and the error that such codes cause in a product of random numbers. */
const GGML_TYPES = [
  { type: 'q2_K', label: 'Q2_K', bits: 2.625, error: 0.5 },
  { type: 'q3_K', label: 'Q3_K', bits: 3.4375, error: 0.25 },
  { type: 'q4_0', label: 'Q4_0', bits: 4.5, error: 0.15 },
  { type: 'q4_K', label: 'Q4_K', bits: 4.5, error: 0.15 },
]

function ggmlParticipants() {
  const llama = nodeLlamaCpp(path.join(here, 'build', 'llama'))
  const ggml = compileModule('ggml.c', [...llama.compile, ...llama.link])
  ggml.open(llama.libraries)
  const participants = GGML_TYPES.flatMap(({ type, label, bits, error }) =>
    [false, true].map((repacked) => ({
      name: `ggml ${label}${repacked ? ' repacked' : ''}`,
      bits,
      make({ cols, rows, tokens }) {
        if (type.endsWith('_K') && cols % 256 !== 0) return null
        const bytes = (cols * rows * bits) / 8
        const [slab, input] = [randomArray(SLAB_ROWS * cols), randomArray(tokens * cols)]
        const handle = ggml.make(type, slab, cols, rows, input, tokens, copiesOf(bytes, tokens), repacked)
        if (!handle) return null
        ggml.run(handle, 1)
        const y = new Float32Array(tokens * rows)
        ggml.output(handle, y)
        checkProducts(this.name, y, rows, exactProducts(slab, input, cols, tokens), error)
        return {
          bytes,
          turn: async (threads) => ggml.run(handle, threads),
          dispose: () => ggml.dispose(handle),
        }
      },
    })),
  )
  return { description: `ggml of llama.cpp ${llama.release}, ${loadedKernels()} kernels`, participants }
}

/** Codes of SLAB_ROWS rows, repeated, with the weights that they mean. */
function onnxWeights(cols, rows, bits, groupSize) {
  const groups = Math.ceil(cols / groupSize)
  const rowBytes = (groups * groupSize * bits) / 8
  const codes = new Uint8Array(rows * rowBytes)
  codes.subarray(0, SLAB_ROWS * rowBytes).forEach((_, i) => {
    codes[i] = Math.random() * 256
  })
  for (let row = SLAB_ROWS; row < rows; row++)
    codes.copyWithin(row * rowBytes, (row % SLAB_ROWS) * rowBytes, ((row % SLAB_ROWS) + 1) * rowBytes)
  const slab = Float32Array.from({ length: SLAB_ROWS * cols }, (_, i) => {
    const [row, col] = [Math.floor(i / cols), i % cols]
    const code = codes[row * rowBytes + ((col * bits) >> 3)] >> ((col * bits) & 7)
    return ((code & (2 ** bits - 1)) - 2 ** (bits - 1)) * 0.01
  })
  return { codes, scales: new Float32Array(rows * groups).fill(0.01), slab }
}

function onnxParticipant(bits) {
  const name = `ONNX Runtime ${bits}-bit`
  return {
    name,
    bits,
    async make({ cols, rows, tokens, groupSize }, threadCounts) {
      const { codes, scales, slab } = onnxWeights(cols, rows, bits, groupSize)
      const bytes = codes.length + scales.byteLength
      const input = randomArray(tokens * cols)
      const shape = { rows, cols, tokens, bits, groupSize, codes, scales, copies: copiesOf(bytes, tokens) }
      const sessions = new Map()
      for (const threads of threadCounts) {
        const session = await onnxProducts(shape, input, threads)
        await session.run()
        checkProducts(name, session.output(), rows, exactProducts(slab, input, cols, tokens), 0.05)
        sessions.set(threads, session)
      }
      return {
        bytes,
        turn: (threads) => sessions.get(threads).run(),
        dispose: () => Promise.all([...sessions.values()].map((session) => session.dispose())),
      }
    },
  }
}

/** Ours, and all peers that are installed: { participants, notes: who they are, or why one is missing }. */
export function everybody() {
  const notes = []
  const participants = []
  const blas = openBlas()
  if (typeof blas === 'string') notes.push(blas)
  else {
    notes.push(`OpenBLAS, ${blas.kernels} kernels (${blas.file})`)
    participants.push(openBlasParticipant(blas))
  }
  const ggml = ggmlParticipants()
  notes.push(ggml.description, `ONNX Runtime ${onnxVersion()}, MatMulNBits, accuracy_level 4`)
  participants.push(...ggml.participants, onnxParticipant(2), onnxParticipant(4))
  const tools = { copiesOf, randomArray, exactProducts, checkProducts, slabRows: SLAB_ROWS }
  participants.push(...ourParticipants(tools))
  return { participants, notes }
}
