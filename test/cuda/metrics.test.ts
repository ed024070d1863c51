import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { addon, type NativeCudaPackedMatrix, packageRoot, run } from '../../lib/native/addon.js'
import { hasEmulator, type LaunchReport, openEmulated } from '../support/cuda.js'
import { randomParts, tensorsOf } from '../support/packed.js'
import { normals } from '../support/random.js'

/**
 * What the products cost, in counts that do not depend on the machine. Instructions are PTX's, a lane's for every
 * weight: those of a longer K less those of a shorter, so that what a launch costs once is left out. ptxas folds most
 * moves, conversions and address arithmetic into others; `byClass` shows how many there are. `npm run metrics:cuda`
 * writes the golden file anew.
 */
interface Cost {
  instructions: number
  byClass: Record<string, number>
  /** Shared-memory wavefronts over the fewest that the accesses' widths allow. */
  wavefronts: number
  /** 32-byte sectors of global memory over the fewest. */
  sectors: number
}

const golden = path.join(packageRoot(), 'test', 'cuda', 'metrics.json')
const native = addon()
const skip = !hasEmulator()
const emulated = skip ? null : openEmulated()
afterAll(() => emulated?.close())

const MIXES: Record<string, (group: number) => number> = {
  '2 bits': () => 2,
  '3 bits': () => 3,
  '4 bits': () => 4,
  '2-bit mix': (group) => [2, 1, 2, 3][group % 4]!,
  '3-bit mix': (group) => [3, 2, 3, 4][group % 4]!,
}

const [ROWS, SHORT, LONG] = [256, 3072, 6144]

async function matrixOf(mix: string, groupSize: number, cols: number) {
  const bits = Uint8Array.from({ length: cols / groupSize }, (_, group) => MIXES[mix]!(group))
  const packed = new native.PackedMatrix(await tensorsOf(await randomParts(ROWS, cols, groupSize, bits)))
  return run(emulated!.device.packedMatrix(packed, 1))
}

async function launches(matrix: NativeCudaPackedMatrix, tokens: number): Promise<LaunchReport[]> {
  emulated!.launches()
  const x = native.tensorFrom(normals(1, tokens * matrix.cols), 'F32', [tokens, matrix.cols])
  // Eight tokens of the longer K do not fit the shared memory of one CTA.
  await run(matrix.matmul(x, { splits: tokens === 8 ? 4 : 1 }))
  return emulated!.launches()
}

/** The product's kernels: panels are made, then multiplied. */
const ofProduct = ({ kernel }: LaunchReport) => /^(packedGem|dequantizePanel|panelGemm)/.test(kernel)
const sum = (reports: LaunchReport[], of: (report: LaunchReport) => number) =>
  reports.reduce((total, report) => total + of(report), 0)

function costOf(few: LaunchReport[], many: LaunchReport[]): Cost {
  const [short, long] = [few.filter(ofProduct), many.filter(ofProduct)]
  const perWeight = (of: (report: LaunchReport) => number) =>
    ((sum(long, of) - sum(short, of)) * 32) / (ROWS * (LONG - SHORT))
  const round = (value: number) => Math.round(value * 1000) / 1000
  const classes = [...new Set(long.flatMap((report) => Object.keys(report.instructionsByClass)))]
  const byClass = classes
    .map((name) => [name, round(perWeight((report) => report.instructionsByClass[name] ?? 0))] as const)
    .filter(([, count]) => count >= 0.01)
  return {
    instructions: round(perWeight(({ instructions }) => instructions)),
    byClass: Object.fromEntries(byClass),
    wavefronts: round(sum(many, (r) => r.sharedWavefronts) / sum(many, (r) => r.minimumWavefronts)),
    sectors: round(sum(many, (r) => r.sectors) / sum(many, (r) => r.minimumSectors)),
  }
}

async function costs(mix: string, groupSize: number): Promise<Record<string, Cost>> {
  const [short, long] = [await matrixOf(mix, groupSize, SHORT), await matrixOf(mix, groupSize, LONG)]
  const result: Record<string, Cost> = {}
  for (const tokens of [1, 8, 16, 64, 128, 256]) {
    const few = await launches(short, tokens)
    result[`${mix}, groups of ${groupSize}, ${tokens} tokens`] = costOf(few, await launches(long, tokens))
  }
  short.dispose()
  long.dispose()
  return result
}

const measured: Record<string, Cost> = {}
const expected: Record<string, Cost> = JSON.parse(readFileSync(golden, 'utf8'))

describe.skipIf(skip)('the products cost no more than', () => {
  for (const mix of Object.keys(MIXES))
    for (const groupSize of [128, 64])
      it(`${mix} in groups of ${groupSize} did`, async () => {
        const found = await costs(mix, groupSize)
        Object.assign(measured, found)
        if (process.env.SLIM_WRITE_METRICS) return
        for (const [name, cost] of Object.entries(found)) {
          const before = expected[name]
          if (!before) expect.fail(`${name} is not in ${golden}`)
          for (const figure of ['instructions', 'wavefronts', 'sectors'] as const)
            expect(cost[figure], `${name}: ${figure}, ${JSON.stringify(cost)}`).toBeLessThanOrEqual(
              before[figure],
            )
        }
      })

  it('what the design promises of the loop over K', () => {
    if (process.env.SLIM_WRITE_METRICS) writeFileSync(golden, `${JSON.stringify(measured, null, 2)}\n`)
    // Moves and conversions are what ptxas folds: unpacking pairs, and constants that stay in registers.
    const lasting = ({ instructions, byClass }: Cost) =>
      instructions - (byClass.move ?? 0) - (byClass.conversion ?? 0)
    for (const tokens of [1, 8]) {
      for (const groupSize of [128, 64]) {
        const at = `groups of ${groupSize}, ${tokens} tokens`
        expect(lasting(measured[`2 bits, ${at}`]!), at).toBeLessThanOrEqual(1.2)
        expect(lasting(measured[`3 bits, ${at}`]!), at).toBeLessThanOrEqual(1.8)
      }
    }
    for (const [name, { wavefronts, sectors }] of Object.entries(measured)) {
      expect(wavefronts, name).toBe(1)
      expect(sectors, name).toBe(1)
    }
  })

  for (const groupSize of [128, 64, 32])
    it(`the least, in shared and global memory, that preparing activations for groups of ${groupSize} can`, async () => {
      const matrix = await matrixOf('2-bit mix', groupSize, 512)
      for (const tokens of [1, 2, 4, 7, 8, 9, 17])
        for (const report of await launches(matrix, tokens)) {
          if (ofProduct(report)) continue
          const about = `${report.kernel}, ${tokens} tokens`
          expect(report.sharedWavefronts, about).toBe(report.minimumWavefronts)
          expect(report.sectors, about).toBe(report.minimumSectors)
        }
      matrix.dispose()
    })
})
