import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { writeSafetensors } from '../../lib/checkpoint/safetensors_writer.js'
import {
  evaluatePerplexity,
  loadModel,
  openCheckpoint,
  PackedMatrix,
  type QuantizeProgress,
  quantize,
  type SlimWarning,
} from '../../lib/index.js'
import { addon, type NativeHessian, type NativePackedMatrix, packageRoot } from '../../lib/native/addon.js'
import { loadMatrix } from '../../lib/runtime/weights.js'
import { contentHashes, demo, heldoutFile, rejection, small, smallCalibration } from '../support/demo.js'
import { temporaryFolder } from '../support/temporary.js'

const folder = temporaryFolder()
const at = (name: string) => path.join(folder, name)

async function perplexity(source: string): Promise<number> {
  await using model = await loadModel(source, { threads: 2 })
  return (await evaluatePerplexity(model, { file: heldoutFile, seqLen: 128, maxTokens: 2048 })).perplexity
}

describe('quantize', () => {
  it('makes a packed folder that runs, counts its bits, and is near the original', async () => {
    const steps: QuantizeProgress[] = []
    const report = await quantize(demo, small(at('slim'), { onProgress: (step) => steps.push(step) }))
    expect(existsSync(at('slim.partial'))).toBe(false)
    expect(readdirSync(at('slim'))).toEqual(
      expect.arrayContaining([
        'config.json',
        'slimllm.json',
        'tokenizer.json',
        'model.safetensors.index.json',
      ]),
    )
    // 2 bits of code, 16/32 of scale, 2/32 of zero point, group_bits; SBA swaps equal numbers of 1- and 3-bit groups,
    // which store a mean of 16 bits and a zero point of 3 in place of 2 of 2 bits.
    expect(report.codeBitsPerWeight).toBeCloseTo(2, 6)
    expect(report.storedBitsPerWeight).toBeGreaterThan(2.5625)
    expect(report.storedBitsPerWeight).toBeLessThan(2.5625 + 0.5)
    const packedBytes = report.layers.reduce((sum, layer) => sum + layer.storedBytes, 0)
    const files = readdirSync(at('slim')).filter((name) => name.endsWith('.safetensors'))
    const bytes = files.reduce((sum, name) => sum + readFileSync(path.join(at('slim'), name)).length, 0)
    expect(report.fileBytes).toBe(bytes)
    expect(packedBytes).toBeLessThan(bytes)
    expect(report.layers).toHaveLength(42)
    for (const layer of report.layers) {
      expect(layer.relativeError).toBeGreaterThan(0)
      expect(layer.relativeError).toBeLessThan(1)
      expect(new Set(layer.groupBits)).not.toContain(4)
    }
    expect(steps.at(-1)).toMatchObject({ phase: 'finish', block: 6, secondsLeft: 0 })
    expect(steps.find((step) => step.block === 1)!.secondsLeft).toBeGreaterThan(0)
    const original = await perplexity(demo)
    expect(original).toBeLessThan(60)
    expect(await perplexity(at('slim'))).toBeLessThan(original * 1.25)
  })

  it('gives the same bytes with one thread, and when run again', async () => {
    await quantize(demo, small(at('one'), { threads: 1 }))
    expect(contentHashes(at('one'))).toEqual(contentHashes(at('slim')))
  })

  it('orders the methods as the literature does at 2 bits', async () => {
    const errors: Record<string, number> = {}
    for (const method of ['rtn', 'gptq', 'slim-paper'] as const) {
      const { layers } = await quantize(demo, small(at(`order-${method}`), { method }))
      errors[method] = layers.reduce((sum, layer) => sum + layer.relativeError!, 0)
    }
    expect(errors.gptq!).toBeLessThan(errors.rtn!)
    expect(errors['slim-paper']!).toBeLessThan(errors.gptq!)
  })

  it('calibrates on the embeddings that the packed model will have', async () => {
    const packed = await quantize(demo, small(at('tables'), { method: 'gptq', embeddingBits: 2 }))
    const { name, rows, cols } = packed.layers[0]!
    expect(name).toBe('model.embed_tokens')
    // The same tables as plain float32 weights of another checkpoint: its blocks see the same states.
    cpSync(demo, at('rounded'), { recursive: true })
    using tables = await openCheckpoint(at('tables'))
    using matrix = new PackedMatrix((await loadMatrix(tables, { name, rows, cols })) as NativePackedMatrix)
    const { data } = await matrix.dequantize()
    using source = await openCheckpoint(demo)
    const entries = [...source.tensors.values()].map(({ name: tensor, dtype, shape }) =>
      tensor === `${name}.weight`
        ? { name: tensor, dtype: 'F32', shape, bytes: () => new Uint8Array(data.buffer) }
        : { name: tensor, dtype, shape, bytes: () => source.tensorBytes(tensor) },
    )
    await writeSafetensors(path.join(at('rounded'), 'model.safetensors'), entries)
    await quantize(at('rounded'), small(at('rounded-gptq'), { method: 'gptq' }))
    const blocks = (of: string) =>
      Object.entries(contentHashes(of)).filter(([file]) => /^model-0000[2-7]/.test(file))
    expect(blocks(at('rounded-gptq'))).toHaveLength(6)
    expect(blocks(at('rounded-gptq'))).toEqual(blocks(at('tables')))
  })

  it('runs rtn without calibration, to the same weights as with', async () => {
    const report = await quantize(demo, small(at('rtn-plain'), { method: 'rtn', calibration: undefined }))
    expect(report.calibration).toBeNull()
    expect(report.layers[0]!.relativeError).toBeNull()
    const { 'slimllm.json': _a, ...plain } = contentHashes(at('rtn-plain'))
    const { 'slimllm.json': _b, ...calibrated } = contentHashes(at('order-rtn'))
    expect(plain).toEqual(calibrated)
  })

  it('follows overrides, quantizes the embedding table on request, and runs the result', async () => {
    const report = await quantize(
      demo,
      small(at('overrides'), {
        bits: 4,
        groupSize: 64,
        embeddingBits: 8,
        overrides: { '**.down_proj': { bits: 5, groupSize: 128 }, 'model.layers.2.**': { skip: true } },
      }),
    )
    const layer = (name: string) => report.layers.find((l) => l.name === name)
    expect(layer('model.layers.0.mlp.down_proj')).toMatchObject({ groupSize: 128 })
    expect(layer('model.layers.2.mlp.down_proj')).toBeUndefined()
    expect(new Set(layer('model.embed_tokens')!.groupBits)).toEqual(new Set([8]))
    expect(await perplexity(at('overrides'))).toBeLessThan((await perplexity(demo)) * 1.05)
  })

  it('uses a given bit map as it is', async () => {
    const { layers } = JSON.parse(readFileSync(path.join(at('slim'), 'slimllm.json'), 'utf8'))
    const bitMap = Object.fromEntries(
      layers.map((l: { name: string; groupBits: number[] }) => [
        l.name,
        l.groupBits.map((_, g) => 1 + (g % 8)),
      ]),
    )
    const report = await quantize(demo, small(at('map'), { bitMap }))
    for (const layer of report.layers) expect(layer.groupBits).toEqual(bitMap[layer.name])
    expect(await perplexity(at('map'))).toBeLessThan(200)
    const again = await quantize(
      demo,
      small(at('map-again'), { bitMap: path.join(at('map'), 'slimllm.json') }),
    )
    expect(again.layers.map((l) => l.groupBits)).toEqual(report.layers.map((l) => l.groupBits))
  })

  it.each([1, 3, 8])('works at %i bits', async (bits) => {
    const report = await quantize(demo, small(at(`bits-${bits}`), { bits, groupSize: 128 }))
    expect(report.codeBitsPerWeight).toBeCloseTo(bits, 6)
    const limit = bits === 1 ? 2000 : (await perplexity(demo)) * (bits === 3 ? 1.15 : 1.01)
    expect(await perplexity(at(`bits-${bits}`))).toBeLessThan(limit)
  })

  it('stores exactly what docs/format.md says: a second reader agrees with the first', async () => {
    using checkpoint = await openCheckpoint(at('map'))
    const name = 'model.layers.1.mlp.down_proj'
    const packed = await loadMatrix(checkpoint, { name, rows: 256, cols: 768 })
    if (!('dequantize' in packed)) throw new Error('the layer is not packed')
    const dense = (await packed.dequantize(1).promise).toFloat32Array()
    const part = async (suffix: string) => (await checkpoint.tensor(`${name}.${suffix}`)).toBytes()
    const [bits, codes, zeros] = [await part('group_bits'), await part('qweight'), await part('qzeros')]
    const scales = (await checkpoint.tensor(`${name}.scales`)).toFloat32Array()
    const bitString = (bytes: Uint8Array, from: number, index: number, width: number) => {
      let value = 0
      for (let i = 0; i < width; i++) {
        const bit = index * width + i
        value |= ((bytes[from + (bit >> 3)]! >> (bit & 7)) & 1) << i
      }
      return value
    }
    const half = (h: number) => {
      const exponent = (h >> 10) & 31
      const magnitude = exponent === 0 ? (h & 1023) * 2 ** -24 : (1024 + (h & 1023)) * 2 ** (exponent - 25)
      return h & 0x8000 ? -magnitude : magnitude
    }
    let codeAt = 0
    let zeroAt = 0
    for (const [group, b] of bits.entries()) {
      const rowBytes = Math.ceil((32 * b) / 8)
      for (let r = 0; r < 256; r++) {
        const scale = scales[group * 256 + r]!
        for (let j = 0; j < 32; j++) {
          const q = bitString(codes, codeAt + r * rowBytes, j, b)
          const mean = half(zeros[zeroAt + 2 * r]! | (zeros[zeroAt + 2 * r + 1]! << 8))
          const weight =
            b === 1
              ? Math.fround(mean + (q ? scale : -scale))
              : Math.fround(scale * (q - bitString(zeros, zeroAt, r, b)))
          if (dense[r * 768 + group * 32 + j] !== weight)
            throw new Error(
              `row ${r}, group ${group} (${b} bits), column ${j}: ${weight} against ${dense[r * 768 + group * 32 + j]}`,
            )
        }
      }
      codeAt += 256 * rowBytes
      zeroAt += b === 1 ? 512 : Math.ceil((256 * b) / 8)
    }
    expect([codeAt, zeroAt]).toEqual([codes.length, zeros.length])
  })
})

describe('quantize refuses', () => {
  it('an output that is not ours, and a finished one unless told to replace it', async () => {
    mkdirSync(at('foreign'))
    writeFileSync(path.join(at('foreign'), 'thesis.txt'), 'mine')
    for (const options of [{}, { overwrite: true }])
      expect(await rejection(quantize(demo, small(at('foreign'), options)))).toMatchObject({
        code: 'SLIM_OUTPUT_EXISTS',
        file: at('foreign'),
      })
    expect(readdirSync(at('foreign'))).toEqual(['thesis.txt'])
    expect(await rejection(quantize(demo, small(at('one'))))).toMatchObject({ code: 'SLIM_OUTPUT_EXISTS' })
    const { layers } = await quantize(demo, small(at('one'), { bits: 3, overwrite: true }))
    expect(layers[0]!.groupBits).toContain(4)
  })

  it('calibration text shorter than a sample, missing, or given twice', async () => {
    const attempt = (calibration: object) => rejection(quantize(demo, small(at('never'), { calibration })))
    expect(await attempt({ text: 'Too short.', seqLen: 64 })).toMatchObject({ code: 'SLIM_TEXT_TOO_SHORT' })
    expect(await attempt({ file: at('nothing.txt') })).toMatchObject({
      code: 'SLIM_FILE_NOT_FOUND',
      file: at('nothing.txt'),
    })
    writeFileSync(at('latin1.txt'), 'Caf\xe9 '.repeat(1000), 'latin1')
    const encoding = await attempt({ file: at('latin1.txt') })
    expect(encoding).toMatchObject({ code: 'SLIM_TEXT_ENCODING', file: at('latin1.txt') })
    expect(encoding.message).toContain('byte 4 ')
    expect(await attempt({})).toMatchObject({ code: 'SLIM_INVALID_ARGUMENT', parameter: 'calibration' })
    expect(await attempt({ file: 'a', text: 'b' })).toMatchObject({ code: 'SLIM_INVALID_ARGUMENT' })
    expect(existsSync(at('never'))).toBe(false)
  })

  it('no window beyond rotary positions, but warns of it', async () => {
    const warnings: SlimWarning[] = []
    const calibration = { ...smallCalibration, samples: 1, seqLen: 1025 }
    const options = { method: 'rtn', calibration, onWarning: (w: SlimWarning) => warnings.push(w) } as const
    await quantize(demo, small(at('long'), options))
    expect(warnings).toMatchObject([{ code: 'SLIM_BEYOND_POSITIONS', parameter: 'calibration.seqLen' }])
  })

  it('a device that is not there, a folder that is quantized already, an unknown family', async () => {
    expect(await rejection(quantize(demo, small(at('never'), { device: 'cuda' })))).toMatchObject({
      code: 'SLIM_DEVICE_UNAVAILABLE',
    })
    expect(await rejection(quantize(at('slim'), small(at('never'))))).toMatchObject({
      code: 'SLIM_UNSUPPORTED_FORMAT',
    })
    cpSync(demo, at('unknown'), { recursive: true })
    const config = JSON.parse(readFileSync(path.join(demo, 'config.json'), 'utf8'))
    writeFileSync(
      path.join(at('unknown'), 'config.json'),
      JSON.stringify({ ...config, model_type: 'perceptron' }),
    )
    const error = await rejection(quantize(at('unknown'), small(at('never'))))
    expect(error).toMatchObject({ code: 'SLIM_UNSUPPORTED_ARCHITECTURE' })
    expect(error).toMatchObject({ file: path.join(at('unknown'), 'config.json') })
    expect(error.message).toMatch(/llama.*qwen3/s)
    expect(existsSync(at('never'))).toBe(false)
  })

  it('a weight with NaN or infinity, naming file, tensor and element', async () => {
    cpSync(demo, at('nan'), { recursive: true })
    const file = path.join(at('nan'), 'model.safetensors')
    const bytes = readFileSync(file)
    const headerLength = Number(bytes.readBigUInt64LE(0))
    const header = JSON.parse(bytes.subarray(8, 8 + headerLength).toString())
    const tensor = 'model.layers.1.mlp.up_proj.weight'
    bytes.writeUInt16LE(0x7e00, 8 + headerLength + header[tensor].data_offsets[0] + 2 * 77)
    writeFileSync(file, bytes)
    const error = await rejection(quantize(at('nan'), small(at('never'))))
    expect(error).toMatchObject({ code: 'SLIM_TENSOR_NON_FINITE', file, tensor })
    expect(error.message).toContain('77')
    expect(existsSync(at('never'))).toBe(false)
  })

  it('a head that is tied, no source, no options: and nothing stands in the way of the next call', async () => {
    const plain = { method: 'rtn', calibration: undefined } as const
    expect(await rejection(quantize(demo, small(at('tied'), { ...plain, headBits: 4 })))).toMatchObject({
      code: 'SLIM_INVALID_ARGUMENT',
      parameter: 'headBits',
    })
    expect(existsSync(at('tied.partial'))).toBe(false)
    expect(await rejection(quantize(undefined as never, small(at('tied'))))).toMatchObject({
      parameter: 'source',
    })
    expect(await rejection(quantize(demo, undefined as never))).toMatchObject({ parameter: 'options' })
    // A run that ended before its first block has nothing to lose, and does not block other settings.
    const controller = new AbortController()
    const abort = () => controller.abort()
    await rejection(quantize(demo, small(at('tied'), { signal: controller.signal, onProgress: abort })))
    expect(existsSync(at('tied.partial'))).toBe(true)
    await quantize(demo, small(at('tied'), plain))
  })

  it('an unfinished-run folder that is not ours, whatever its name', async () => {
    mkdirSync(at('guest.partial'))
    writeFileSync(path.join(at('guest.partial'), 'thesis.txt'), 'mine')
    for (const options of [{}, { restart: true }])
      expect(await rejection(quantize(demo, small(at('guest'), options)))).toMatchObject({
        code: 'SLIM_OUTPUT_EXISTS',
        file: at('guest.partial'),
      })
    expect(readdirSync(at('guest.partial'))).toEqual(['thesis.txt'])
  })

  it('a second run into the same output while the first is at work', async () => {
    const first = quantize(demo, small(at('busy')))
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect(await rejection(quantize(demo, small(at('busy'))))).toMatchObject({ code: 'SLIM_OUTPUT_EXISTS' })
    await first
    expect(contentHashes(at('busy'))).toEqual(contentHashes(at('slim')))
  })

  it('an output that cannot be written, by the name of the output', async () => {
    writeFileSync(at('a-file'), '')
    const output = path.join(at('a-file'), 'packed')
    const error = await rejection(quantize(demo, small(output)))
    expect(error.code).toMatch(/^SLIM_FILE_/)
    expect(error).toMatchObject({ file: expect.stringContaining(at('a-file')) })
  })

  it('a NaN in a norm, and a missing tensor, also by rtn without calibration', async () => {
    const plain = { method: 'rtn', calibration: undefined } as const
    cpSync(demo, at('broken'), { recursive: true })
    const file = path.join(at('broken'), 'model.safetensors')
    const bytes = readFileSync(file)
    const headerLength = Number(bytes.readBigUInt64LE(0))
    const header = JSON.parse(bytes.subarray(8, 8 + headerLength).toString())
    const tensor = 'model.layers.3.input_layernorm.weight'
    bytes.writeUInt16LE(0x7c00, 8 + headerLength + header[tensor].data_offsets[0])
    writeFileSync(file, bytes)
    expect(await rejection(quantize(at('broken'), small(at('never-1'), plain)))).toMatchObject({
      code: 'SLIM_TENSOR_NON_FINITE',
      tensor,
    })
    // The same length, so that the offsets stay right.
    const renamed = bytes.toString('latin1').replace('"model.norm.weight"', '"model.nose.weight"')
    writeFileSync(file, renamed, 'latin1')
    expect(await rejection(quantize(at('broken'), small(at('never-2'), plain)))).toMatchObject({
      code: 'SLIM_TENSOR_MISSING',
      tensor: 'model.norm.weight',
    })
    expect(existsSync(at('never-2'))).toBe(false)
  })

  it('a group larger than a layer', async () => {
    const source = path.join(packageRoot(), 'test', 'fixtures', 'hf', 'llama')
    const options = small(at('never'), { method: 'rtn', calibration: undefined, groupSize: 128 })
    expect(await rejection(quantize(source, options))).toMatchObject({
      code: 'SLIM_GROUP_SIZE',
      tensor: 'model.layers.0.self_attn.q_proj.weight',
    })
  })

  it('a packed folder of a format that it does not know', async () => {
    cpSync(at('slim'), at('future'), { recursive: true })
    const file = path.join(at('future'), 'config.json')
    const config = JSON.parse(readFileSync(file, 'utf8'))
    config.quantization_config.format_version = 2
    writeFileSync(file, JSON.stringify(config))
    expect(await rejection(loadModel(at('future')))).toMatchObject({ code: 'SLIM_UNSUPPORTED_FORMAT' })
    config.quantization_config = { quant_method: 'awq' }
    writeFileSync(file, JSON.stringify(config))
    expect(await rejection(loadModel(at('future')))).toMatchObject({ code: 'SLIM_UNSUPPORTED_FORMAT' })
  })
})

describe('an output', () => {
  it('may have a trailing slash, or be an empty folder', async () => {
    mkdirSync(at('slash'))
    await quantize(demo, small(`${at('slash')}/`))
    expect(contentHashes(at('slash'))).toEqual(contentHashes(at('slim')))
    expect(existsSync(path.join(at('slash'), '.partial'))).toBe(false)
  })

  it('is put right after a kill while finishing, in each of its moments', async () => {
    // Renamed, but the journal is still inside; and the folder that was replaced still there.
    writeFileSync(path.join(at('slash'), 'journal.jsonl'), '')
    cpSync(at('slim'), at('slash.replaced'), { recursive: true })
    expect(await rejection(quantize(demo, small(at('slash'))))).toMatchObject({ code: 'SLIM_OUTPUT_EXISTS' })
    expect(contentHashes(at('slash'))).toEqual(contentHashes(at('slim')))
    expect(existsSync(at('slash.replaced'))).toBe(false)
    // The old folder moved aside, the new one not yet in place.
    renameSync(at('slash'), at('slash.replaced'))
    expect(await rejection(quantize(demo, small(at('slash'))))).toMatchObject({ code: 'SLIM_OUTPUT_EXISTS' })
    expect(contentHashes(at('slash'))).toEqual(contentHashes(at('slim')))
    await quantize(demo, small(at('slash'), { overwrite: true, bits: 4, method: 'rtn' }))
    expect(readdirSync(folder).filter((name) => name.startsWith('slash'))).toEqual(['slash'])
  })
})

describe('an abort', () => {
  it('leaves nothing under the final name, and the run can go on', async () => {
    const controller = new AbortController()
    const error = await rejection(
      quantize(
        demo,
        small(at('aborted'), {
          signal: controller.signal,
          onProgress: ({ block, phase }) => block === 2 && phase === 'quantize' && controller.abort(),
        }),
      ),
    )
    expect(error).toMatchObject({ code: 'SLIM_ABORTED' })
    expect(existsSync(at('aborted'))).toBe(false)
    const mismatch = await rejection(quantize(demo, small(at('aborted'), { bits: 3 })))
    expect(mismatch).toMatchObject({ code: 'SLIM_OUTPUT_MISMATCH' })
    const steps: QuantizeProgress[] = []
    await quantize(demo, small(at('aborted'), { onProgress: (step) => steps.push(step) }))
    expect(steps[0]).toMatchObject({ phase: 'resume', block: 2, blocks: 6 })
    expect(steps[0]!.secondsLeft).toBeGreaterThan(0)
    expect(steps.filter(({ phase }) => phase === 'resume')).toHaveLength(1)
    expect(steps.find(({ phase }) => phase === 'calibrate')!.block).toBe(2)
    expect(contentHashes(at('aborted'))).toEqual(contentHashes(at('slim')))
  })

  it.each(['calibrate', 'quantize'] as const)(
    'lets go of the Hessians, also in phase %s',
    async (interrupted) => {
      const native = addon()
      const { Hessian } = native
      let [made, disposed] = [0, 0]
      native.Hessian = class extends (Hessian as new (size: number, keepEvery: number) => NativeHessian) {
        constructor(size: number, keepEvery: number) {
          super(size, keepEvery)
          made++
        }
        override dispose() {
          super.dispose()
          disposed++
        }
      } as typeof Hessian
      try {
        const controller = new AbortController()
        const { signal } = controller
        const onProgress = ({ block, phase }: QuantizeProgress) =>
          block === 1 && phase === interrupted && controller.abort()
        const error = await rejection(
          quantize(demo, small(at(`hessians-${interrupted}`), { signal, onProgress })),
        )
        expect(error).toMatchObject({ code: 'SLIM_ABORTED' })
      } finally {
        native.Hessian = Hessian
      }
      // Those of the block before, and of the one that the abort fell on.
      expect([made, disposed]).toEqual([8, 8])
    },
  )
})
