/** Messages to the text of a prompt, by the Jinja template that came with the model. */
import { Template } from '@huggingface/jinja'
import { SlimError } from '../errors.js'
import { isObject } from '../files.js'

/** Fields beside these go to the template as they are (tool_calls, name …). */
export interface ChatMessage {
  /** 'system', 'user', 'assistant', or another that the template knows. */
  role: string
  content?: unknown
  [field: string]: unknown
}

export interface ChatTemplateOptions {
  /** End with the beginning of the assistant's answer (default true). */
  addGenerationPrompt?: boolean
  /** Functions that the model may call, as JSON schemas. */
  tools?: readonly Record<string, unknown>[]
  /** What else the template reads, such as `enable_thinking`. */
  variables?: Record<string, unknown>
}

/** Of tokenizer_config.json: the text of one template, or several by name. */
type StoredTemplate = string | { name: string; template: string }[]

const SPECIAL_TOKENS = ['bos', 'eos', 'unk', 'sep', 'pad', 'cls', 'mask'].map((name) => `${name}_token`)

export class ChatTemplate {
  #parsed = new Map<string, Template>()
  private readonly tokens: Record<string, string>

  /** `path` is for error messages. */
  constructor(
    private readonly stored: unknown,
    config: Record<string, unknown>,
    private readonly path: string,
  ) {
    const contentOf = (token: unknown) => (isObject(token) ? token.content : token)
    this.tokens = Object.fromEntries(
      SPECIAL_TOKENS.map((name) => [name, contentOf(config[name])]).filter(
        ([, content]) => typeof content === 'string',
      ),
    )
  }

  render(
    messages: readonly ChatMessage[],
    { addGenerationPrompt = true, tools, variables }: ChatTemplateOptions = {},
  ): string {
    checkMessages(messages)
    const template = this.template(tools !== undefined)
    try {
      return template.render({
        ...this.tokens,
        // Templates ask whether these are none, which undefined is not.
        tools: tools ?? null,
        documents: null,
        ...variables,
        messages,
        add_generation_prompt: addGenerationPrompt,
      })
    } catch (cause) {
      throw this.error(`refuses the messages: ${(cause as Error).message}`, {
        cause,
        parameter: 'messages',
        remedy:
          'Give roles in the order that the model was trained on; many templates have no system message',
      })
    }
  }

  private template(withTools: boolean): Template {
    const text = this.text(withTools)
    let parsed = this.#parsed.get(text)
    if (!parsed) {
      try {
        parsed = new Template(text)
      } catch (cause) {
        throw this.error(`cannot be read: ${(cause as Error).message}`, { cause })
      }
      this.#parsed.set(text, parsed)
    }
    return parsed
  }

  private text(withTools: boolean): string {
    const stored = this.stored as StoredTemplate | undefined
    if (typeof stored === 'string') return stored
    const named = (name: string) =>
      Array.isArray(stored) ? stored.find((entry) => entry?.name === name)?.template : undefined
    const text = (withTools ? named('tool_use') : undefined) ?? named('default')
    if (typeof text === 'string') return text
    throw this.error('is missing', {
      remedy:
        'It stands in chat_template.jinja, in tokenizer_config.json or in the metadata of a GGUF file; models that were not tuned for chat have none: use generate with a prompt',
    })
  }

  private error(what: string, details: { cause?: unknown; parameter?: string; remedy?: string }): SlimError {
    return new SlimError('SLIM_CHAT_TEMPLATE', `The chat template of ${this.path} ${what}`, {
      ...details,
      file: this.path,
    })
  }
}

function checkMessages(messages: readonly ChatMessage[]): void {
  if (!Array.isArray(messages) || messages.length === 0)
    throw SlimError.invalidArgument('messages', 'an array of at least one message', messages)
  messages.forEach((message, i) => {
    if (!isObject(message)) throw SlimError.invalidArgument(`messages[${i}]`, 'an object', message)
    if (typeof message.role !== 'string')
      throw SlimError.invalidArgument(`messages[${i}].role`, 'a string', message.role)
  })
}
