/** The GPU benchmarks of bench/gpu, as far as they go without a GPU. */
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { packageRoot } from '../../lib/native/addon.js'
import { emulatorLibrary, hasEmulator } from '../support/cuda.js'
import { temporaryFolder } from '../support/temporary.js'
import { descendants, parseXml } from '../support/xml.js'

const folder = temporaryFolder()
const bench = path.join(packageRoot(), 'bench', 'gpu')
const skip = !hasEmulator()

interface Row {
  cols: number
  rows: number
  tokens: number
  name: string
  error: number
  microseconds: number | null
  speedups: Record<string, number>
}

interface Report {
  timed: boolean
  device: { name: string }
  notes: string[]
  copyBytesPerSecond: number | null
  results: Row[]
  goals: { goal: string; least: number; reached: number }[]
}

function runBench(program: string, args: string[], driver?: string) {
  const env = { ...process.env, SLIMLLM_CUDA_DRIVER: driver }
  return spawnSync(process.execPath, [path.join(bench, program), ...args], { encoding: 'utf8', env })
}

function output(program: string, args: string[]): string {
  const { status, stdout, stderr } = runBench(program, args)
  if (status !== 0) throw new Error(stderr)
  return stdout
}

describe('packed.mjs', () => {
  it.skipIf(skip)('checks products on the emulated driver, and times none', () => {
    const out = path.join(folder, 'emulated.json')
    const text = output('packed.mjs', ['--emulated', '--out', out, '--svg', path.join(folder, 'none.svg')])
    expect(text).toContain('THE EMULATED DRIVER: products are checked, nothing is timed.')
    expect(text).not.toContain('µs')
    const report: Report = JSON.parse(readFileSync(out, 'utf8'))
    expect(report).toMatchObject({ timed: false, copyBytesPerSecond: null, goals: [] })
    const shapes = new Set(report.results.map(({ cols, rows }) => `${cols}x${rows}`))
    const tokens = new Set(report.results.map((row) => row.tokens))
    expect(report.results).toHaveLength(shapes.size * tokens.size * 3)
    expect([...tokens]).toEqual([1, 2, 7, 16, 33, 130])
    for (const row of report.results) {
      expect(row).toMatchObject({ microseconds: null, speedups: {} })
      expect(row.error).toBeGreaterThan(0)
      expect(row.error).toBeLessThan(2e-3)
    }
  })

  it.skipIf(skip)('does not take the emulated driver for a GPU', () => {
    for (const program of ['packed.mjs', 'quantize.mjs']) {
      const { status, stderr } = runBench(program, [], emulatorLibrary)
      expect(status).not.toBe(0)
      expect(stderr).toContain('nothing can be timed')
    }
  })

  const row = (tokens: number, name: string, microseconds: number, speedups: Record<string, number>) => ({
    ...{ cols: 4096, rows: 11008, tokens, name, bytes: 1e7, error: 1e-6, microseconds, speedups },
    ...{ gigabytesPerSecond: 1e4 / microseconds, bandwidthShare: 0.5 },
  })
  const timed = {
    timed: true,
    device: { name: 'a GPU', driver: '13.0', image: 'sm_90a' },
    notes: ['made up'],
    groupSize: 128,
    copyBytesPerSecond: 4e12,
    matrixOperationsPerSecond: 7e14,
    results: [1, 16].flatMap((tokens) => [
      row(tokens, '2-bit mix', 4 * tokens, { 'cuBLAS float16': 5 / tokens, 'tinygemm int4': 2 }),
      row(tokens, 'cuBLAS float16', 20, { 'cuBLAS float16': 1, 'tinygemm int4': 0.5 }),
      row(tokens, 'tinygemm int4', 8, { 'cuBLAS float16': 2.5, 'tinygemm int4': 1 }),
    ]),
    goals: [{ goal: 'faster', least: 4, reached: 5 }],
  }

  it('shows an earlier run again: tables, goals, chart', () => {
    const [file, svg] = [path.join(folder, 'timed.json'), path.join(folder, 'timed.svg')]
    writeFileSync(file, JSON.stringify(timed))
    const text = output('packed.mjs', ['--from', file, '--svg', svg])
    expect(text).toContain('copies 4.00 TB/s')
    expect(text).toContain('| 4096×11008 | 1 | 2-bit mix | 1.0e-6 | 4.0 | 2500 | 50 % | 5.00 | 2.00 |')
    expect(text).toContain('| 4096×11008 | 1 | cuBLAS float16 | 1.0e-6 | 20.0 | 500 | 50 % |  | 0.50 |')
    expect(text).toMatch(/1 token, 4096×11008 \| 4\.0 \| 5\.00 \| met \|/)
    expect(text).toMatch(/16 tokens, the worst shape \| 4\.0 \| 0\.31 \| missed \|/)
    const bars = descendants(parseXml(readFileSync(svg, 'utf8'))).filter(
      ({ attributes }) => attributes.class === 'bar',
    )
    expect(bars).toHaveLength(4)
  })
})

describe('predict.mjs', () => {
  it('is what docs/benchmarks.md says of the golden counts', () => {
    const page = readFileSync(path.join(packageRoot(), 'docs', 'benchmarks.md'), 'utf8')
    const [, section] = page.split(/<!-- predicted: .* -->\n|<!-- end of predicted -->/)
    expect(section, 'npm run metrics:cuda, or node bench/gpu/predict.mjs --write').toBe(
      output('predict.mjs', []),
    )
  })

  it('takes the slowest of instructions, bytes and operations', async () => {
    const { packedTime, halfTime } = await import(path.join(bench, 'roofline.mjs'))
    const device = {
      ...{ multiprocessors: 2, schedulers: 4, hertz: 100 },
      ...{ bytesPerSecond: 1000, operationsPerSecond: 1e5, mmaSyncPerSecond: 5e4 },
    }
    // 800 warps' instructions a second are 25600 lanes'.
    const few = { weights: 25600, tokens: 1, instructions: 2 }
    expect(packedTime({ ...few, bits: 0.5 }, device)).toEqual({ limit: 'matrix', seconds: 8.192 })
    expect(packedTime({ ...few, bits: 4 }, device)).toEqual({ limit: 'bytes', seconds: 12.8 })
    expect(packedTime({ ...few, bits: 1, instructions: 9 }, device)).toEqual({
      limit: 'issue',
      seconds: 9,
    })
    expect(packedTime({ ...few, bits: 4, tokens: 9 }, device)).toEqual({ limit: 'matrix', seconds: 16.384 })
    expect(halfTime({ weights: 1000, tokens: 1 }, device)).toEqual({ limit: 'bytes', seconds: 2 })
    expect(halfTime({ weights: 1000, tokens: 300 }, device)).toEqual({ limit: 'matrix', seconds: 6 })
  })
})

describe('tinygemm.mjs', () => {
  const limits = { coldBytes: 1, leastRepeats: 1 }
  const double = path.join(packageRoot(), 'test', 'cuda', 'tinygemm_double.mjs')
  const load = () => import(path.join(bench, 'tinygemm.mjs'))

  it('is told shapes and turns, and tells errors and seconds', async () => {
    const { tinygemmParticipant } = await load()
    const participant = await tinygemmParticipant(double, limits)
    expect(participant.description).toBe('a double')
    const product = await participant.make({ cols: 256, rows: 64 }).product({ tokens: 4 })
    expect(product.bytes).toBe(256 * 64 + 128)
    expect(await product.error()).toBe(0.004)
    expect(await product.turn()).toBe(0.25)
    await expect(participant.make({ cols: 256, rows: 13 }).product({ tokens: 4 })).rejects.toThrow('thirteen')
    expect(await product.turn()).toBe(0.25)
    participant.close()
  })

  it('says why there is none', async () => {
    const { tinygemmParticipant } = await load()
    await expect(tinygemmParticipant('/nowhere/python', limits)).rejects.toThrow('/nowhere/python')
    await expect(tinygemmParticipant('false', limits)).rejects.toThrow('false ended with 1')
  })
})

describe('quantize.mjs', () => {
  const args = ['--threads', '2', '--out', path.join(folder, 'quantize.json')]
  const report = () => JSON.parse(readFileSync(path.join(folder, 'quantize.json'), 'utf8'))

  it('quantizes a tiny model on the CPU and tells what it took', () => {
    const text = output('quantize.mjs', ['--tiny', '--device', 'cpu', ...args])
    expect(text).toContain('times smaller than float16')
    const { timed, seconds, phases, peakHostBytes, layerBytes, layerHalfBytes, ...others } = report()
    expect(timed).toBe(true)
    expect(seconds).toBeGreaterThan(phases.quantizer)
    expect(peakHostBytes).toBeGreaterThan(1e7)
    expect(layerHalfBytes).toBe(2 * (4 * 64 * 64 + 3 * 64 * 96))
    expect((16 * layerBytes) / layerHalfBytes).toBeCloseTo(others.storedBitsPerWeight, 6)
    expect(others).toMatchObject({ device: null, peakDeviceBytes: null })
    expect(others.fileBytes).toBeLessThan(others.sourceBytes)
  })

  it.skipIf(skip).each(['slim-paper', 'slim'])(
    'quantizes by %s on the emulated driver, untimed',
    (method) => {
      output('quantize.mjs', ['--emulated', '--method', method, ...args])
      expect(report()).toMatchObject({
        timed: false,
        device: expect.stringContaining('emulated'),
        settings: { method },
      })
      expect(report().peakDeviceBytes).toBeGreaterThan(1e5)
    },
  )
})
