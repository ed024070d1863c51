/** Nothing is left of texts that were made, nor of models and matrices that were disposed. */
import { readFileSync } from 'node:fs'
import { expect, it } from 'vitest'
import { loadModel, PackedMatrix } from '../../lib/index.js'
import { addon } from '../../lib/native/addon.js'
import { demo } from '../support/demo.js'

const residentMB = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1]) / 1024

it('10,000 steps leave memory as it was', async () => {
  const model = await loadModel(demo, { threads: 2 })
  let tokens = 0
  async function round(texts: number): Promise<void> {
    await using session = model.session({ maxSequences: 4, keptCaches: 2, kvCache: 'int8' })
    for (let i = 0; i < texts; i++) {
      const prompt = Array.from({ length: 20 + (i % 50) }, (_, at) => 2 + ((7 * i + at) % 2000))
      const options = { maxTokens: 40 + (i % 30), temperature: 1, seed: i }
      const each = [session.generate(prompt, options), model.generate(prompt, options)].map(
        async (generation) => {
          let count = 0
          for await (const _token of generation) {
            tokens++
            if (++count === 35 && i % 3 === 0) break
          }
        },
      )
      await Promise.all(each)
    }
  }
  await round(20)
  const before = residentMB()
  tokens = 0
  while (tokens < 10_000) await round(20)
  expect(residentMB() - before).toBeLessThan(40)
  await model.dispose()
  expect(Object.keys(addon().sharedModels())).toEqual([])
})

it('weights in the order of the kernels go with their matrix', async () => {
  const [rows, cols, groupSize] = [2048, 4096, 128]
  const groups = cols / groupSize
  const parts = {
    ...{ rows, cols, groupSize },
    qweight: new Uint8Array((rows * cols * 4) / 8),
    groupBits: new Uint8Array(groups).fill(4),
    scales: new Uint16Array(groups * rows),
    qzeros: new Uint8Array((groups * rows * 4) / 8),
  }
  const multiplied = async (count: number) => {
    const x = { data: new Float32Array(cols).fill(1), rows: 1, cols }
    const matrices = Array.from({ length: count }, () => PackedMatrix.from(parts))
    for (const matrix of matrices) await matrix.matmul(x, { threads: 2 })
    const held = residentMB()
    for (const matrix of matrices) matrix.dispose()
    return held
  }
  await multiplied(1)
  const before = residentMB()
  // 16 matrices of 4 MB, once as they are stored and once in the order of the kernels.
  expect((await multiplied(16)) - before).toBeGreaterThan(100)
  expect(residentMB() - before).toBeLessThan(50)
})
