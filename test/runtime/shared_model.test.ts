/** One copy of the weights for all threads of a process. */
import { cpSync, readFileSync, realpathSync, utimesSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { describe, expect, it } from 'vitest'
import { loadModel, openCheckpoint } from '../../lib/index.js'
import { addon, type NativeModelClaim, packageRoot } from '../../lib/native/addon.js'
import { modelKey } from '../../lib/runtime/shared_model.js'
import { demo, rejection } from '../support/demo.js'
import { sharedPath } from '../support/models.js'
import { temporaryFolder } from '../support/temporary.js'

const folder = temporaryFolder()
function copyOf(name: string): string {
  cpSync(demo, path.join(folder, name), { recursive: true })
  return path.join(folder, name)
}
/** How many objects use the models of a folder, one number a model. */
const users = (source: string) => {
  const file = realpathSync(source)
  return Object.entries(addon().sharedModels())
    .filter(([key]) => key.includes(`${file}/`) || key.includes(`${file}"`))
    .map(([, count]) => count)
}

class ModelWorker {
  readonly #worker: Worker
  constructor(source: string) {
    this.#worker = new Worker(path.join(packageRoot(), 'test', 'support', 'model_worker.mjs'), {
      workerData: { source, library: path.join(packageRoot(), 'dist', 'index.js') },
    })
  }
  tell(command: string, argument?: string): Promise<string> {
    return new Promise((resolve, reject) => {
      this.#worker.once('error', reject)
      this.#worker.once('message', ({ value, error }) => {
        this.#worker.off('error', reject)
        if (error) reject(new Error(error))
        else resolve(value)
      })
      this.#worker.postMessage([command, argument])
    })
  }
  end(): Promise<number> {
    return this.#worker.terminate()
  }
}

describe('threads that load the same model', () => {
  it('share its weights, which go with the last of them', async () => {
    const source = copyOf('threads')
    const workers = [1, 2].map(() => new ModelWorker(source))
    await Promise.all(workers.map((worker) => worker.tell('load')))
    expect(users(source)).toEqual([2])
    const model = await loadModel(source)
    expect(users(source)).toEqual([3])
    const texts = await Promise.all(workers.map((worker) => worker.tell('generate', 'The old man')))
    let text = ''
    for await (const token of model.generate('The old man', { maxTokens: 12 })) text += token.text
    expect(texts).toEqual([text, text])
    await model.dispose()
    await workers[0]!.tell('dispose')
    expect(users(source)).toEqual([1])
    // A thread that ends lets go, too.
    await Promise.all(workers.map((worker) => worker.end()))
    expect(users(source)).toEqual([])
    expect(readFileSync('/proc/self/maps', 'utf8')).not.toContain(`${source}/`)
  })

  it('load it once when they ask at the same time, and again when loading failed', async () => {
    const source = copyOf('once')
    const models = await Promise.all([1, 2, 3].map(() => loadModel(source)))
    expect(users(source)).toEqual([3])
    await Promise.all(models.map((model) => model.dispose()))
    expect(users(source)).toEqual([])

    const config = readFileSync(path.join(source, 'config.json'), 'utf8')
    const deeper = { ...JSON.parse(config), num_hidden_layers: 7 }
    writeFileSync(path.join(source, 'config.json'), JSON.stringify(deeper))
    for (const error of await Promise.all([1, 2].map(() => rejection(loadModel(source)))))
      expect(error).toMatchObject({ code: 'SLIM_TENSOR_MISSING' })
    writeFileSync(path.join(source, 'config.json'), config)
    await (await loadModel(source)).dispose()
  })

  it('share nothing where files or options differ', async () => {
    const source = copyOf('differ')
    const models = [await loadModel(source), await loadModel(source, { activations: 'float32' })]
    expect(users(source)).toEqual([1, 1])
    utimesSync(path.join(source, 'model.safetensors'), 1, 1)
    models.push(await loadModel(source))
    expect(users(source)).toEqual([1, 1, 1])
    await Promise.all(models.map((model) => model.dispose()))
    expect(users(source)).toEqual([])
  })

  it('wait for the one that loads it, until it gives up or their signal says so', async () => {
    const source = copyOf('waits')
    using checkpoint = await openCheckpoint(source)
    const claim = addon().sharedModel(await modelKey(checkpoint, { activations: 'int8' })) as NativeModelClaim
    const controller = new AbortController()
    const aborted = rejection(loadModel(source, { signal: controller.signal }))
    let isLoaded = false
    const waiting = loadModel(source).finally(() => {
      isLoaded = true
    })
    await setTimeout(50)
    controller.abort()
    expect(await aborted).toMatchObject({ code: 'SLIM_ABORTED' })
    expect(isLoaded).toBe(false)
    claim.dispose()
    await (await waiting).dispose()
  })
})

const gguf = sharedPath('models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf')

it.skipIf(!gguf)(
  'a second copy of SmolLM2, 269 MB in float16, takes no memory, and none is left',
  async () => {
    const residentMB = () =>
      Number(/VmRSS:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1]) / 1024
    const workers = [1, 2].map(() => new ModelWorker(gguf!))
    const before = residentMB()
    await workers[0]!.tell('load')
    const one = residentMB()
    await workers[1]!.tell('load')
    const two = residentMB()
    expect(one - before).toBeGreaterThan(200)
    expect(two - one).toBeLessThan(80)
    expect(users(gguf!)).toEqual([2])
    await Promise.all(workers.map((worker) => worker.tell('dispose')))
    expect(users(gguf!)).toEqual([])
    expect(two - residentMB()).toBeGreaterThan(200)
    await Promise.all(workers.map((worker) => worker.end()))
  },
)
