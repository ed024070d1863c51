import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { type ChatMessage, loadTokenizer, openCheckpoint, quantize } from '../../lib/index.js'
import { packageRoot } from '../../lib/native/addon.js'
import { ChatTemplate } from '../../lib/runtime/chat_template.js'
import { expectSlimError } from '../support/expect_error.js'
import { writeGguf } from '../support/gguf.js'
import { demo, sharedPath } from '../support/models.js'
import { temporaryFolder } from '../support/temporary.js'
import { tinyLlama } from '../support/tiny_llama.js'

const folder = temporaryFolder()

interface Case {
  template: string
  messages: ChatMessage[]
  addGenerationPrompt: boolean
  tools?: Record<string, unknown>[]
  variables?: Record<string, unknown>
  text?: string
  error?: string
}

const { templates, cases } = JSON.parse(
  readFileSync(path.join(packageRoot(), 'test', 'fixtures', 'chat_templates.json'), 'utf8'),
) as { templates: Record<string, { tokens: Record<string, string>; template: string }>; cases: Case[] }

const user = (content: string) => ({ role: 'user', content })

describe('ChatTemplate', () => {
  it.each(cases.map((given, i) => [i, given.template, given] as const))(
    'case %i, %s: the text or the error that Jinja gives',
    async (_, name, { messages, text, error, ...options }) => {
      const { tokens, template } = templates[name]!
      const chat = new ChatTemplate(template, tokens, 'folder')
      if (error === undefined) expect(chat.render(messages, options)).toBe(text)
      else
        await expectSlimError(
          () => chat.render(messages, options),
          'SLIM_CHAT_TEMPLATE',
          { file: 'folder' },
          error,
        )
    },
  )

  it('ends with the beginning of an answer unless told otherwise', () => {
    const chat = new ChatTemplate(templates.chatml!.template, {}, 'folder')
    expect(chat.render([user('Hi')])).toMatch(/<\|im_start\|>assistant\n/)
    expect(chat.render([user('Hi')], { addGenerationPrompt: false })).not.toMatch(/assistant/)
  })

  it('takes the one of several templates that suits', async () => {
    const stored = [
      { name: 'default', template: 'plain {{ messages[0].content }}' },
      { name: 'tool_use', template: 'tools {{ tools | length }}' },
    ]
    const chat = new ChatTemplate(stored, {}, 'folder')
    expect(chat.render([user('Hi')])).toBe('plain Hi')
    expect(chat.render([user('Hi')], { tools: [{}, {}] })).toBe('tools 2')
    const nameless = new ChatTemplate(stored.slice(1), {}, 'folder')
    await expectSlimError(() => nameless.render([user('Hi')]), 'SLIM_CHAT_TEMPLATE', {}, 'is missing')
  })

  it('reads special tokens that are objects', () => {
    const chat = new ChatTemplate(
      '{{ bos_token }}{{ eos_token }}',
      { bos_token: { content: '<s>' }, eos_token: '</s>' },
      '',
    )
    expect(chat.render([user('')])).toBe('<s></s>')
  })

  it('says what is wrong with messages and templates', async () => {
    const chat = new ChatTemplate('{{ messages[0].content }}', {}, 'folder')
    for (const [messages, parameter] of [
      [[], 'messages'],
      ['Hi', 'messages'],
      [['Hi'], 'messages[0]'],
      [[user('Hi'), { content: 'Hi' }], 'messages[1].role'],
    ] as const)
      await expectSlimError(() => chat.render(messages as never), 'SLIM_INVALID_ARGUMENT', { parameter })
    for (const stored of [undefined, null, 5, []])
      await expectSlimError(
        () => new ChatTemplate(stored, {}, 'folder').render([user('Hi')]),
        'SLIM_CHAT_TEMPLATE',
        { file: 'folder' },
        'is missing',
      )
    await expectSlimError(
      () => new ChatTemplate('{% if %}', {}, 'folder').render([user('Hi')]),
      'SLIM_CHAT_TEMPLATE',
      { file: 'folder' },
      'cannot be read',
    )
  })
})

it('chat_template.jinja goes before tokenizer_config.json', () => {
  const source = {
    json: { model: { type: 'BPE', vocab: { a: 0 }, merges: [] } },
    config: { chat_template: 'of the configuration' },
  }
  expect(loadTokenizer(source).applyChatTemplate([user('')])).toBe('of the configuration')
  expect(loadTokenizer({ ...source, chatTemplate: 'of the file' }).applyChatTemplate([user('')])).toBe(
    'of the file',
  )
})

it('goes with a packed folder, from chat_template.jinja and from a GGUF file', async () => {
  const chatty = path.join(folder, 'chatty')
  cpSync(demo, chatty, { recursive: true })
  writeFileSync(path.join(chatty, 'chat_template.jinja'), '{{ messages[0].content }}!')
  const tiny = writeGguf(path.join(folder, 'tiny.gguf'), tinyLlama().input)
  for (const [source, text] of [
    [chatty, 'Hi!'],
    // Its template is {{ messages }}.
    [tiny, '[{"role": "user", "content": "Hi"}]'],
  ] as const) {
    const output = `${source}-packed`
    await quantize(source, { output, bits: 4, groupSize: 32, method: 'rtn' })
    using packed = await openCheckpoint(output)
    expect(loadTokenizer(packed).applyChatTemplate([user('Hi')])).toBe(text)
  }
})

const gguf = sharedPath('models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf')

it.skipIf(!gguf)("renders a chat with the real template of SmolLM2's GGUF file", async () => {
  using checkpoint = await openCheckpoint(gguf!)
  const tokenizer = loadTokenizer(checkpoint)
  const text = tokenizer.applyChatTemplate([user('What is gravity?')])
  expect(text).toBe(
    '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' +
      '<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n',
  )
  // <|im_start|> and <|im_end|> are one token each.
  const ids = [...tokenizer.encode(text)]
  expect(ids.filter((id) => id === 1)).toHaveLength(3)
  expect(ids.filter((id) => id === 2)).toHaveLength(2)
  expect(tokenizer.eosTokenIds).toContain(2)
})
