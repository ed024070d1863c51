/** Text to token ids and back, as the model's tokenizer.json says. */
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers'
import type { Checkpoint } from '../checkpoint/checkpoint.js'
import { SlimError } from '../errors.js'
import { isObject } from '../files.js'
import { type ChatMessage, ChatTemplate, type ChatTemplateOptions } from './chat_template.js'
import { exactTokenizer } from './pre_tokenizer.js'

export interface EncodeOptions {
  /** Adds what the tokenizer's post-processor adds, such as a beginning-of-sequence token. */
  addSpecialTokens?: boolean
}

export interface DecodeOptions {
  skipSpecialTokens?: boolean
}

export interface Tokenizer {
  /** Special tokens that the text spells out ("<|im_start|>") become their ids. */
  encode(text: string, options?: EncodeOptions): Int32Array
  /** Ids that are no token give no text. */
  decode(ids: ArrayLike<number>, options?: DecodeOptions): string
  /** The prompt of a chat, as the template that came with the model has it; it spells out its special tokens. */
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions): string
  /** Tokens that end a text: of the generation configuration, the model's and the tokenizer's, without repetition. */
  readonly eosTokenIds: readonly number[]
  readonly bosTokenId: number | null
  /** One more than the largest id; the model's embedding may have more rows. */
  readonly vocabSize: number
}

/** tokenizer.json, tokenizer_config.json and chat_template.jinja; config.json and generation_config.json where there is a model. */
export interface TokenizerSource {
  json: Record<string, unknown>
  config: Record<string, unknown>
  /** Goes before the chat template of `config`. */
  chatTemplate?: string
  modelConfig?: Readonly<Record<string, unknown>>
  generationConfig?: Readonly<Record<string, unknown>>
  /** For error messages. */
  path?: string
}

export function loadTokenizer(
  source: Pick<Checkpoint, 'tokenizer' | 'path' | 'config' | 'generationConfig'> | TokenizerSource,
): Tokenizer {
  if ('json' in source) return new JsonTokenizer(source)
  const { tokenizer, path, config: modelConfig, generationConfig } = source
  if (tokenizer) return new JsonTokenizer({ ...tokenizer, modelConfig, generationConfig, path })
  throw new SlimError('SLIM_FILE_NOT_FOUND', `${path} has no tokenizer.json`, {
    file: path,
    expected: 'tokenizer.json',
    remedy: 'Fetch it from where the model comes from; tokenizers of other kinds have to be converted to it',
  })
}

class JsonTokenizer implements Tokenizer {
  readonly eosTokenIds: readonly number[]
  readonly bosTokenId: number | null
  readonly vocabSize: number
  private readonly tokenizer: HuggingFaceTokenizer
  private readonly chatTemplate: ChatTemplate
  private readonly cleanUp: boolean

  constructor({
    json,
    config,
    chatTemplate,
    modelConfig = {},
    generationConfig = {},
    path = 'tokenizer.json',
  }: TokenizerSource) {
    try {
      this.tokenizer = new HuggingFaceTokenizer(exactTokenizer(json), config)
    } catch (cause) {
      throw new SlimError(
        'SLIM_UNSUPPORTED_TOKENIZER',
        `The tokenizer of ${path} cannot be used: ${(cause as Error).message}`,
        {
          file: path,
          cause,
          remedy: 'The file is damaged, or its tokenizer is of a kind that is not supported',
        },
      )
    }
    this.chatTemplate = new ChatTemplate(chatTemplate ?? config.chat_template, config, path)
    this.cleanUp = config.clean_up_tokenization_spaces === true
    this.vocabSize = maxId(this.tokenizer) + 1
    this.eosTokenIds = [
      ...new Set([
        ...tokenIds(generationConfig.eos_token_id),
        ...tokenIds(modelConfig.eos_token_id),
        ...this.idsOf(config.eos_token),
      ]),
    ]
    this.bosTokenId = this.idsOf(config.bos_token)[0] ?? tokenIds(modelConfig.bos_token_id)[0] ?? null
  }

  /** tokenizer_config.json has the token itself, or an object with it. */
  private idsOf(token: unknown): number[] {
    const content = isObject(token) ? token.content : token
    return typeof content === 'string' ? tokenIds(this.tokenizer.token_to_id(content)) : []
  }

  encode(text: string, { addSpecialTokens = false }: EncodeOptions = {}): Int32Array {
    if (typeof text !== 'string') throw SlimError.invalidArgument('text', 'a string', typeof text)
    return Int32Array.from(this.tokenizer.encode(text, { add_special_tokens: addSpecialTokens }).ids)
  }

  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions): string {
    return this.chatTemplate.render(messages, options)
  }

  decode(ids: ArrayLike<number>, { skipSpecialTokens = false }: DecodeOptions = {}): string {
    const known = Array.from(ids).filter((id) => this.tokenizer.id_to_token(id) !== undefined)
    if (known.length === 0) return ''
    return this.tokenizer.decode(known, {
      skip_special_tokens: skipSpecialTokens,
      clean_up_tokenization_spaces: this.cleanUp,
    })
  }
}

const isTokenId = (value: unknown): value is number => Number.isInteger(value) && (value as number) >= 0

/** config.json has one id, an array of ids, or null. */
const tokenIds = (value: unknown): number[] => (Array.isArray(value) ? value : [value]).filter(isTokenId)

function maxId(tokenizer: HuggingFaceTokenizer): number {
  let largest = -1
  for (const id of tokenizer.get_vocab().values()) largest = Math.max(largest, id)
  return largest
}
