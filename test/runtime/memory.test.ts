/** Nothing is left of texts that were made: 10,000 tokens, in and out of sessions, broken off and finished. */
import { readFileSync } from 'node:fs'
import { expect, it } from 'vitest'
import { loadModel } from '../../lib/index.js'
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
