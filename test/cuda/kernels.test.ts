import { existsSync, readFileSync, statSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { packageRoot } from '../../lib/native/addon.js'

interface PtxasReport {
  hash: string
  kernels: {
    kernel: string
    architecture: string
    registers: number
    stackBytes: number
    spillBytes: number
    sharedBytes: number
  }[]
}

const root = packageRoot()
const fatbin = path.join(root, 'build', 'Release', 'kernels.fatbin')
const reportFile = path.join(root, 'build', 'cuda', 'ptxas.json')
const ARCHITECTURES = ['80', '86', '89', '90a']

/** The report of the kernels that lie in build/Release, or null where they are not built, or of PTX alone. */
function reportOfBuild(): PtxasReport | null {
  if (!existsSync(fatbin) || !existsSync(reportFile)) return null
  const report = JSON.parse(readFileSync(reportFile, 'utf8')) as PtxasReport
  expect(
    readFileSync(fatbin)
      .readBigUInt64LE(statSync(fatbin).size - 8)
      .toString(16),
  ).toBe(report.hash)
  return report.kernels.length > 0 ? report : null
}

const report = reportOfBuild()
if (!report) console.warn('skipped: what ptxas says of the kernels; build them with npm run build:cuda')

/** Registers by which as many CTAs fit a multiprocessor of 65536 as the kernels' comments count on. */
function mostRegisters(kernel: string): number {
  const threads = kernel === 'packActivations' ? 128 : kernel === 'sampleTokens' ? 512 : 256
  const ctas = /^packedGemv\dx1$/.test(kernel) ? 3 : /^packedGem(v|m16)/.test(kernel) ? 2 : 1
  return Math.floor(65536 / (threads * ctas) / 8) * 8
}

describe.skipIf(!report)('the compiled kernels', () => {
  it('are made for every architecture', () => {
    const names = (architecture: string) =>
      report!.kernels.filter((k) => k.architecture === architecture).map((k) => k.kernel)
    for (const architecture of ARCHITECTURES) expect(names(architecture)).toEqual(names('80'))
    expect(names('80').length).toBeGreaterThanOrEqual(20)
  })

  it('spill nothing and use no local memory', () => {
    expect(report!.kernels.filter((k) => k.spillBytes > 0 || k.stackBytes > 0)).toEqual([])
  })

  it('leave registers for the warps that hide the memory’s latency', () => {
    expect(report!.kernels.filter((k) => k.registers > mostRegisters(k.kernel))).toEqual([])
  })

  it('fit the package', () => {
    expect(statSync(fatbin).size).toBeLessThanOrEqual(8e6)
    const { files } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'))
    expect(files).toContain('prebuilds')
  })
})
