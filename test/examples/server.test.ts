/** examples/server.mjs with clients at the same time, against the library's own answers. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { loadModel, type Model } from '../../lib/index.js'
import { packageRoot } from '../../lib/native/addon.js'
import { demo } from '../support/demo.js'
import { temporaryFolder } from '../support/temporary.js'

const source = path.join(temporaryFolder(), 'demo-chat')
let server: ChildProcess
let url: string
let model: Model
beforeAll(async () => {
  cpSync(demo, source, { recursive: true })
  writeFileSync(
    path.join(source, 'chat_template.jinja'),
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('No tools') }}{% endif %}{{ m.content }} {% endfor %}",
  )
  model = await loadModel(source)
  server = spawn(process.execPath, [path.join(packageRoot(), 'examples', 'server.mjs'), source, '0'])
  server.stderr!.on('data', (text) => process.stderr.write(text))
  const [line] = await once(server.stdout!.setEncoding('utf8'), 'data')
  url = line.trim()
})
afterAll(async () => {
  server.kill()
  await model.dispose()
})

const post = (body: unknown, signal?: AbortSignal) =>
  fetch(`${url}/chat/completions`, {
    method: 'POST',
    body: typeof body === 'string' ? body : JSON.stringify(body),
    signal,
  })
const messages = (content: string) => [{ role: 'user', content }]

async function expected(content: string, seed: number): Promise<string> {
  let text = ''
  const options = { maxTokens: 30, temperature: 0.8, topP: 0.9, seed }
  for await (const token of model.chat(messages(content), options)) text += token.text
  return text
}

it('streams answers to several clients at once, each its own', async () => {
  const prompts = ['The old man', 'It was a bright morning', 'In the beginning']
  const answers = await Promise.all(
    prompts.map(async (prompt, seed) => {
      const stream = seed !== 1
      const body = { messages: messages(prompt), stream, max_tokens: 30, temperature: 0.8, top_p: 0.9, seed }
      const response = await post(body)
      expect(response.status).toBe(200)
      if (!stream) return (await response.json()) as never
      expect(response.headers.get('content-type')).toBe('text/event-stream')
      const events = (await response.text()).split('\n\n').slice(0, -1)
      expect(events.pop()).toBe('data: [DONE]')
      const chunks = events.map((event) => JSON.parse(event.replace(/^data: /, '')))
      expect(chunks.length).toBeGreaterThan(5)
      expect(chunks[0].choices[0].delta.role).toBe('assistant')
      const content = chunks.map(({ choices: [{ delta }] }) => delta.content ?? '').join('')
      return { choices: [{ message: { content }, finish_reason: chunks.at(-1).choices[0].finish_reason }] }
    }),
  )
  for (const [seed, { choices }] of answers.entries())
    expect(choices[0]).toMatchObject({
      message: { content: await expected(prompts[seed]!, seed) },
      finish_reason: 'length',
    })
  expect(answers[1]).toMatchObject({ object: 'chat.completion', usage: { completion_tokens: 30 } })
})

it('goes on when a client leaves', async () => {
  const controller = new AbortController()
  const left = await post({ messages: messages('The old man'), stream: true }, controller.signal)
  const reader = left.body!.getReader()
  await reader.read()
  controller.abort()
  const response = await post({ messages: messages('The'), max_tokens: 3, temperature: 0 })
  expect(response.status).toBe(200)
})

it.each([
  [{ messages: [] }, 'SLIM_INVALID_ARGUMENT', 'messages'],
  [{ messages: messages('a'), temperature: -1 }, 'SLIM_INVALID_ARGUMENT', 'temperature'],
  [{ messages: messages('a'), max_tokens: 5000, stream: true }, 'SLIM_CONTEXT_LENGTH', 'maxTokens'],
  [{ messages: [{ role: 'tool', content: '' }] }, 'SLIM_CHAT_TEMPLATE', 'messages'],
  ['{', undefined, undefined],
])('answers %j with status 400', async (body, code, param) => {
  const response = await post(body)
  expect(response.status).toBe(400)
  const { error } = (await response.json()) as { error: Record<string, string> }
  expect([error.code, error.param, typeof error.message]).toEqual([code, param, 'string'])
})
