/** An OpenAI-compatible server: node examples/server.mjs MODEL [PORT]. All requests share one batch. */
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import path from 'node:path'
import { loadModel } from 'slimllm'

const [source, port = '8080'] = process.argv.slice(2)
const model = await loadModel(source)
const session = model.session({ maxSequences: 8 })
const name = path.basename(source)
/** Errors that the request is to blame for. */
const THEIRS = ['SLIM_INVALID_ARGUMENT', 'SLIM_CONTEXT_LENGTH', 'SLIM_CHAT_TEMPLATE']

function optionsOf(body, signal) {
  const { max_completion_tokens, max_tokens, temperature, top_p, seed, stop, tools } = body
  const maxTokens = max_completion_tokens ?? max_tokens ?? undefined
  const options = { maxTokens, temperature: temperature ?? 1, topP: top_p ?? 1, stop: stop ?? [] }
  return { ...options, seed: seed ?? Math.floor(Math.random() * 2 ** 32), tools, signal }
}

async function complete(body, response, signal) {
  const generation = session.chat(body.messages, optionsOf(body, signal))
  const head = { id: `chatcmpl-${randomUUID()}`, created: Math.floor(Date.now() / 1000), model: name }
  const send = async (delta, finish_reason = null) => {
    const choices = [{ index: 0, delta, finish_reason }]
    const event = `data: ${JSON.stringify({ ...head, object: 'chat.completion.chunk', choices })}\n\n`
    // Waiting for the client pauses its sequence alone.
    if (!response.write(event)) await once(response, 'drain', { signal })
  }
  let content = ''
  for await (const { text } of generation) {
    content += text
    // Not before the first token: until then an error still gets its status.
    if (body.stream && !response.headersSent) {
      response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' })
      await send({ role: 'assistant', content: '' })
    }
    if (body.stream && text) await send({ content: text })
  }
  const finish_reason = generation.finishReason === 'length' ? 'length' : 'stop'
  if (body.stream) {
    await send({}, finish_reason)
    return response.end('data: [DONE]\n\n')
  }
  const { promptTokens: prompt_tokens, generatedTokens: completion_tokens } = generation
  const usage = { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
  const choices = [{ index: 0, message: { role: 'assistant', content }, finish_reason }]
  response.writeHead(200, { 'content-type': 'application/json' })
  response.end(JSON.stringify({ ...head, object: 'chat.completion', choices, usage }))
}

async function handle(request, response) {
  const gone = new AbortController()
  response.on('close', () => gone.abort())
  try {
    if (request.url === '/v1/models')
      return response.end(JSON.stringify({ object: 'list', data: [{ id: name, object: 'model' }] }))
    if (`${request.method} ${request.url}` !== 'POST /v1/chat/completions')
      return response.writeHead(404).end()
    let text = ''
    for await (const part of request.setEncoding('utf8')) text += part
    await complete(JSON.parse(text) ?? {}, response, gone.signal)
  } catch (error) {
    if (gone.signal.aborted || response.headersSent) return response.destroy()
    const isTheirs = THEIRS.includes(error.code) || error instanceof SyntaxError
    response.writeHead(isTheirs ? 400 : 500, { 'content-type': 'application/json' })
    response.end(
      JSON.stringify({ error: { message: error.message, code: error.code, param: error.parameter } }),
    )
  }
}

const server = createServer(handle).listen(Number(port), () => {
  console.log(`http://localhost:${server.address().port}/v1`)
})
