// The report's figures for accesses whose bank conflicts and sectors are known by hand.
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Bench, buffer, buildTimeout, type LaunchReport, withoutNvcc } from './support.js'

const folder = path.join(path.dirname(fileURLToPath(import.meta.url)), 'kernels')
const sharedBytes = 16384

describe.skipIf(withoutNvcc)('metrics', () => {
  let bench: Bench
  let start: string[]
  beforeAll(async () => {
    bench = await Bench.open()
    const module = await bench.compile(path.join(folder, 'metrics.cu'))
    start = ['device 0', `module ${module}`, ...buffer(bench, 'x', new Float32Array(4096)), 'allocate y 128']
  }, buildTimeout)
  afterAll(() => bench.close())

  const report = async (launch: string): Promise<LaunchReport> => {
    const { last, reports } = await bench.run([...start, `launch ${launch}`])
    expect(last.text).toBe('')
    expect(reports).toHaveLength(1)
    return reports[0]!
  }

  // 128 stores of 128 bytes write the shared memory before the access that counts.
  const preparing = 128

  // wavefronts, minimum
  it.each([
    ['sharedStride', 0, 1, 1],
    ['sharedStride', 1, 1, 1],
    ['sharedStride', 2, 2, 1],
    ['sharedStride', 3, 1, 1],
    ['sharedStride', 4, 4, 1],
    ['sharedStride', 32, 32, 1],
    ['sharedStride', 33, 1, 1],
    ['sharedPairs', 2, 2, 2],
    ['sharedPairs', 4, 4, 2],
    ['sharedPairs', 64, 32, 2],
    ['sharedPairs', 66, 2, 2],
    ['sharedWide', 4, 4, 4],
    ['sharedWide', 8, 8, 4],
    ['sharedWide', 32, 32, 4],
    ['sharedWide', 36, 4, 4],
    ['matrix', 16, 4, 4],
    ['matrix', 32, 8, 4],
    ['matrix', 64, 16, 4],
    ['matrix', 80, 4, 4],
    ['matrix', 128, 32, 4],
  ])('%s with stride %i: %i wavefronts of at least %i', async (kernel, stride, wavefronts, minimum) => {
    const line = await report(`${kernel} 1 1 1 32 1 1 ${sharedBytes} @y s32:${stride}`)
    expect(line.sharedRequests - preparing).toBe(1)
    expect(line.sharedWavefronts - preparing).toBe(wavefronts)
    expect(line.minimumWavefronts - preparing).toBe(minimum)
  })

  // sectors, minimum, bytes of the load; the store has 4 sectors of 4.
  it.each([
    [1, 0, 4, 4, 128],
    [1, 1, 5, 4, 128],
    [1, 8, 4, 4, 128],
    [2, 0, 8, 4, 128],
    [8, 0, 32, 4, 128],
    [32, 0, 32, 4, 128],
    [0, 5, 1, 1, 4],
  ])(
    'global loads with stride %i from %i: %i sectors of at least %i',
    async (stride, first, sectors, minimum, bytes) => {
      const line = await report(`globalStride 1 1 1 32 1 1 0 @x @y s32:${stride} s32:${first}`)
      expect(line).toMatchObject({
        globalRequests: 2,
        sectors: sectors + 4,
        minimumSectors: minimum + 4,
        bytesRead: bytes,
        bytesWritten: 128,
      })
    },
  )

  it('16 bytes a lane are 16 sectors, each used whole', async () => {
    const line = await report('globalWide 1 1 1 32 1 1 0 @x @y')
    expect(line).toMatchObject({
      kernel: 'globalWide',
      grid: [1, 1, 1],
      block: [32, 1, 1],
      sectors: 20,
      minimumSectors: 20,
      bytesRead: 512,
    })
  })

  it('instructions are counted a warp, by class, and the classes add up', async () => {
    const line = await report('globalWide 1 1 1 32 1 1 0 @x @y')
    expect(line.instructionsByClass).toMatchObject({ global: 2, float32: 3, parameter: 2 })
    expect(Object.values(line.instructionsByClass).reduce((a, b) => a + b)).toBe(line.instructions)
    const { reports } = await bench.run([
      ...start,
      'launch onlyPrepare 3 1 1 32 1 1 16384',
      'launch onlyPrepare 1 1 1 32 1 1 16384',
    ])
    expect(reports[0]!.instructions).toBe(3 * reports[1]!.instructions)
  })
})
