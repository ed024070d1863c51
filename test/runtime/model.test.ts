import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { loadModel, quantize } from '../../lib/index.js'
import { demo, rejection, small } from '../support/demo.js'
import { temporaryFolder } from '../support/temporary.js'

const folder = temporaryFolder()
/** A copy of the demo model, so that its mappings can be told from those of other tests. */
function copyOf(name: string): string {
  cpSync(demo, path.join(folder, name), { recursive: true })
  return path.join(folder, name)
}
const isMapped = (source: string) => readFileSync('/proc/self/maps', 'utf8').includes(`${source}/`)

describe('loadModel', () => {
  it('keeps the weights mapped until the model is disposed, not until the collector runs', async () => {
    const source = copyOf('whole')
    const model = await loadModel(source)
    expect(isMapped(source)).toBe(true)
    expect(await model.logits([1, 2, 3])).toHaveLength(3 * 2048)
    await model.dispose()
    expect(isMapped(source)).toBe(false)
    expect(await rejection(model.logits([1]))).toMatchObject({ code: 'SLIM_DISPOSED' })
  })

  it('lets go of a packed folder too', async () => {
    const source = path.join(folder, 'packed')
    await quantize(demo, small(source, { method: 'rtn', calibration: undefined }))
    const model = await loadModel(source)
    expect(isMapped(source)).toBe(true)
    await model.dispose()
    expect(isMapped(source)).toBe(false)
  })

  it('lets go of everything when it fails half-way', async () => {
    const source = copyOf('broken')
    const config = JSON.parse(readFileSync(path.join(source, 'config.json'), 'utf8'))
    config.num_hidden_layers++
    writeFileSync(path.join(source, 'config.json'), JSON.stringify(config))
    expect(await rejection(loadModel(source))).toMatchObject({ code: 'SLIM_TENSOR_MISSING' })
    expect(isMapped(source)).toBe(false)
  })

  it('ends when its signal says so', async () => {
    const source = copyOf('aborted')
    const signal = AbortSignal.abort()
    expect(await rejection(loadModel(source, { signal }))).toMatchObject({ code: 'SLIM_ABORTED' })
    expect(isMapped(source)).toBe(false)
  })
})

describe('Model.logits', () => {
  it('refuses what is no token id, by its place', async () => {
    await using model = await loadModel(demo)
    for (const [ids, parameter] of [
      [[1, 1.5], 'tokenIds[1]'],
      [[-1], 'tokenIds[0]'],
      [[Number.NaN], 'tokenIds[0]'],
      [[1, 2, 2048], 'tokenIds[2]'],
      [[1, undefined as never], 'tokenIds[1]'],
      [new Float32Array([0.5]), 'tokenIds[0]'],
      [undefined as never, 'tokenIds'],
      ['12' as never, 'tokenIds'],
    ] as const)
      expect(await rejection(model.logits(ids))).toMatchObject({ code: 'SLIM_INVALID_ARGUMENT', parameter })
  })

  it('refuses more than one array holds, with the limit', async () => {
    await using model = await loadModel(demo)
    const error = await rejection(model.logits(new Int32Array(2 ** 19)))
    expect(error).toMatchObject({ code: 'SLIM_INVALID_ARGUMENT', parameter: 'tokenIds' })
    expect(error.message).toContain(`at most ${2 ** 19 - 1} tokens`)
  })
})
