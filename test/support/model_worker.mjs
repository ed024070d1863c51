/** A worker thread that loads a model from the built library when it is told to, and makes some tokens. */
import { parentPort, workerData } from 'node:worker_threads'

const { loadModel } = await import(workerData.library)
let model
const commands = {
  async load() {
    model = await loadModel(workerData.source, { threads: 1 })
  },
  async generate(prompt) {
    let text = ''
    for await (const token of model.generate(prompt, { maxTokens: 12 })) text += token.text
    return text
  },
  async dispose() {
    await model.dispose()
  },
}
parentPort.on('message', async ([command, argument]) => {
  try {
    parentPort.postMessage({ value: await commands[command](argument) })
  } catch (error) {
    parentPort.postMessage({ error: error.message })
  }
})
