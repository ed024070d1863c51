/** tokenizer.json and tokenizer_config.json of a byte-level BPE tokenizer, rebuilt from GGUF metadata. */
import { SlimError } from '../errors.js'
import type { TokenizerFiles } from './checkpoint.js'
import type { GgufValue } from './gguf.js'

const LLAMA3_PATTERN =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" +
  '\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+'

const byteLevel = (useRegex: boolean) => ({
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: useRegex,
})
const digitsThenWords = [{ type: 'Digits', individual_digits: true }, byteLevel(true)]
const llama3Words = [
  { type: 'Split', pattern: { Regex: LLAMA3_PATTERN }, behavior: 'Isolated', invert: false },
  byteLevel(false),
]

/** How the text is cut into words before the merges, by the value of tokenizer.ggml.pre. */
const PRE_TOKENIZERS: Readonly<
  Record<string, { steps: object[]; addBos?: boolean; ignoreMerges?: boolean }>
> = {
  'gpt-2': { steps: [byteLevel(true)] },
  smollm: { steps: digitsThenWords },
  starcoder: { steps: digitsThenWords },
  refact: { steps: digitsThenWords },
  'command-r': { steps: digitsThenWords },
  'llama-bpe': { steps: llama3Words, addBos: true, ignoreMerges: true },
}

/** Values of tokenizer.ggml.token_type. */
const CONTROL = 3
const USER_DEFINED = 4

const isStrings = (value: unknown): value is string[] =>
  Array.isArray(value) && value.every((v) => typeof v === 'string')

export function rebuildTokenizer(
  file: string,
  metadata: ReadonlyMap<string, GgufValue>,
): TokenizerFiles | null {
  const get = (key: string) => metadata.get(`tokenizer.ggml.${key}`)
  const unsupported = (key: string, expected: string) =>
    new SlimError(
      'SLIM_UNSUPPORTED_TOKENIZER',
      `${file}: tokenizer.ggml.${key} is ${JSON.stringify(get(key) ?? null)}; supported: ${expected}`,
      {
        file,
        parameter: `tokenizer.ggml.${key}`,
        expected,
        remedy: 'Use the Hugging Face folder of the model instead',
      },
    )
  if (get('model') === undefined) return null
  if (get('model') !== 'gpt2') throw unsupported('model', '"gpt2" (byte-level BPE)')
  const pre = get('pre') ?? 'gpt-2'
  const words =
    typeof pre === 'string' && Object.hasOwn(PRE_TOKENIZERS, pre) ? PRE_TOKENIZERS[pre] : undefined
  if (!words) throw unsupported('pre', Object.keys(PRE_TOKENIZERS).join(', '))

  const bad = (key: string, expected: string) =>
    new SlimError('SLIM_BAD_CONFIG', `${file}: tokenizer.ggml.${key} is not ${expected}`, {
      file,
      parameter: `tokenizer.ggml.${key}`,
      expected,
    })
  const vocabulary = get('tokens')
  if (!isStrings(vocabulary)) throw bad('tokens', 'an array of strings')
  const merges = get('merges')
  if (!isStrings(merges)) throw bad('merges', 'an array of strings')
  const types = get('token_type') ?? []
  if (!Array.isArray(types)) throw bad('token_type', 'an array')
  const tokenOf = (key: string): string | undefined => {
    const id = get(key)
    if (id === undefined) return undefined
    const token = typeof id === 'number' ? vocabulary[id] : undefined
    if (token === undefined) throw bad(key, `an id below ${vocabulary.length}`)
    return token
  }

  const bos = tokenOf('bos_token_id')
  const addBos = get('add_bos_token') ?? words.addBos ?? false
  const addedTokens = vocabulary.flatMap((content, id) => {
    const type = types[id]
    if (type !== CONTROL && type !== USER_DEFINED) return []
    const special = type === CONTROL
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }]
  })
  const json = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: addedTokens,
    normalizer: null,
    pre_tokenizer: { type: 'Sequence', pretokenizers: words.steps },
    post_processor: addBos && bos !== undefined ? bosTemplate(bos, get('bos_token_id') as number) : null,
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: words.ignoreMerges ?? false,
      vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
      merges,
    },
  }

  const contextLength = metadata.get(`${metadata.get('general.architecture')}.context_length`)
  const config: Record<string, unknown> = {
    tokenizer_class: 'PreTrainedTokenizerFast',
    ...(contextLength === undefined ? {} : { model_max_length: contextLength }),
    clean_up_tokenization_spaces: false,
  }
  const named = {
    bos_token: bos,
    eos_token: tokenOf('eos_token_id'),
    unk_token: tokenOf('unknown_token_id'),
    pad_token: tokenOf('padding_token_id'),
    chat_template: metadata.get('tokenizer.chat_template'),
  }
  for (const [key, value] of Object.entries(named)) if (value !== undefined) config[key] = value
  return { json, config }
}

/** Puts the beginning-of-sequence token before every text that is encoded with special tokens. */
function bosTemplate(token: string, id: number) {
  const special = { SpecialToken: { id: token, type_id: 0 } }
  const text = (name: string, typeId: number) => ({ Sequence: { id: name, type_id: typeId } })
  return {
    type: 'TemplateProcessing',
    single: [special, text('A', 0)],
    pair: [special, text('A', 0), special, text('B', 1)],
    special_tokens: { [token]: { id: token, ids: [id], tokens: [token] } },
  }
}
