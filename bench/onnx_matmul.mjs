// MatMulNBits of ONNX Runtime: a model of nothing but such products, encoded here by hand (onnx.proto), and its session.
import * as ort from 'onnxruntime-node'

const [VARINT, BYTES] = [0, 2]
const FLOAT = 1
const UINT8 = 2
const INT_ATTRIBUTE = 2

function varint(value) {
  const bytes = []
  let rest = value
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128)
  return Buffer.from([...bytes, rest])
}

/** One field of a message: a number, a text, or bytes of a nested message. */
function field(number, value) {
  if (typeof value === 'number') return Buffer.concat([varint(number * 8 + VARINT), varint(value)])
  const bytes = typeof value === 'string' ? Buffer.from(value) : value
  return Buffer.concat([varint(number * 8 + BYTES), varint(bytes.length), bytes])
}

const message = (...fields) => Buffer.concat(fields)

function tensor(name, type, dims, data) {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength)
  return message(...dims.map((dim) => field(1, dim)), field(2, type), field(8, name), field(9, bytes))
}

function valueInfo(name, dims) {
  const shape = message(...dims.map((dim) => field(1, field(1, dim))))
  return message(field(1, name), field(2, field(1, message(field(1, FLOAT), field(2, shape)))))
}

const attribute = (name, value) => message(field(1, name), field(3, value), field(20, INT_ATTRIBUTE))

/**
 * `copies` products y_i [tokens, rows] = x [tokens, cols] · W_iᵀ, each with its own weights; the last of them is the
 * output. All have these codes but for the last byte: equal weights would be kept once, and read from a cache. Codes [rows, groups, groupSize·bits/8], scales [rows, groups]; without
 * zero points the code 2^(bits−1) is zero.
 */
function model({ rows, cols, tokens, bits, groupSize, copies, codes, scales }) {
  const groups = Math.ceil(cols / groupSize)
  const attributes = { K: cols, N: rows, bits, block_size: groupSize, accuracy_level: 4 }
  const nodes = []
  const weights = []
  for (let c = 0; c < copies; c++) {
    nodes.push(
      field(
        1,
        message(
          ...['x', `w${c}`, `s${c}`].map((name) => field(1, name)),
          field(2, `y${c}`),
          field(4, 'MatMulNBits'),
          ...Object.entries(attributes).map(([name, value]) => field(5, attribute(name, value))),
          field(7, 'com.microsoft'),
        ),
      ),
    )
    weights.push(
      field(5, tensor(`w${c}`, UINT8, [rows, groups, (groupSize * bits) / 8], codes.with(-1, c % 256))),
      field(5, tensor(`s${c}`, FLOAT, [rows, groups], scales)),
    )
  }
  const graph = message(
    ...nodes,
    field(2, 'products'),
    ...weights,
    field(11, valueInfo('x', [tokens, cols])),
    field(12, valueInfo(`y${copies - 1}`, [tokens, rows])),
  )
  const operators = (domain, version) => field(8, message(field(1, domain), field(2, version)))
  return message(field(1, 10), operators('', 21), operators('com.microsoft', 1), field(7, graph))
}

/** { run: mean seconds of a product over one pass through the copies, output, dispose }. */
export async function onnxProducts(shape, input, threads) {
  const session = await ort.InferenceSession.create(model(shape), {
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    executionMode: 'sequential',
  })
  const feeds = { x: new ort.Tensor('float32', input, [shape.tokens, shape.cols]) }
  const name = `y${shape.copies - 1}`
  let y
  return {
    async run() {
      const start = performance.now()
      y = (await session.run(feeds))[name]
      return (performance.now() - start) / 1e3 / shape.copies
    },
    output: () => y.data,
    dispose: () => session.release(),
  }
}

export const onnxVersion = () => ort.env.versions.node ?? ort.env.versions.common
