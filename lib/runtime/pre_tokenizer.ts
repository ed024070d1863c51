/**
 * tokenizer.json with pre-tokenizers that @huggingface/tokenizers computes otherwise than the Rust library (which
 * defines the tokens that models were trained on) replaced by equal ones that it computes rightly:
 *
 * - Digits: Rust splits at every numeric character (\p{N}: ½, ², Ⅷ, digits of all scripts), JavaScript's \d knows
 *   0-9 only. In WikiText-2 that changes the tokens of both files.
 * - ByteLevel with its regular expression: JavaScript's \s has U+FEFF and lacks U+0085. The Split pre-tokenizer
 *   translates \s to White_Space.
 * - Metaspace: Rust splits before every replacement character unless `split` is false; the library never does.
 */
import { isObject } from '../files.js'

type Step = Record<string, unknown>

const GPT2_PATTERN = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

const split = (regex: string): Step => ({
  type: 'Split',
  pattern: { Regex: regex },
  behavior: 'Isolated',
  invert: false,
})
/** A space before a text that does not begin with one; the library hands `content` to String.replaceAll. */
const PREFIX_SPACE: Step = { type: 'Replace', pattern: { Regex: '\\A[^ ]' }, content: ' $&' }
const sequence = (...pretokenizers: Step[]): Step => ({ type: 'Sequence', pretokenizers })
const escaped = (text: string) => text.replace(/[\\\]^-]/g, '\\$&')

function exactStep(step: unknown): unknown {
  if (!isObject(step)) return step
  switch (step.type) {
    case 'Sequence':
      return Array.isArray(step.pretokenizers)
        ? { ...step, pretokenizers: step.pretokenizers.map(exactStep) }
        : step
    case 'Digits':
      return split(step.individual_digits ? '\\p{N}' : '\\p{N}+')
    case 'ByteLevel': {
      if (step.use_regex === false) return step
      const words = [split(GPT2_PATTERN), { ...step, use_regex: false, add_prefix_space: false }]
      return step.add_prefix_space ? sequence(PREFIX_SPACE, ...words) : sequence(...words)
    }
    case 'Metaspace': {
      if (step.split === false) return step
      const mark = escaped(typeof step.replacement === 'string' ? step.replacement : '\u2581')
      return sequence(step, split(`[${mark}]?[^${mark}]+|[${mark}]`))
    }
    default:
      return step
  }
}

const MARK = '\u2581'

/**
 * Whether cutting before every run of ▁ leaves the tokens as they are. Tokenizers of the SentencePiece kind (Llama 2,
 * Mistral, Gemma) merge over the whole text, which takes the library 30 s and 0.6 GB for a megabyte. A merge across
 * the boundary "x▁" makes a symbol that contains "x▁": where no merge makes one, the words cannot meet.
 */
function wordsNeverMeet(model: unknown): boolean {
  if (!isObject(model) || model.type !== 'BPE' || model.ignore_merges || model.end_of_word_suffix)
    return false
  if (!isObject(model.vocab) || !Object.hasOwn(model.vocab, MARK) || !Array.isArray(model.merges))
    return false
  const joins = new RegExp(`[^${MARK}]${MARK}`, 'u')
  return model.merges.every(
    (merge) => !joins.test(Array.isArray(merge) ? merge.join('') : String(merge).replace(' ', '')),
  )
}

export function exactTokenizer(json: Record<string, unknown>): Record<string, unknown> {
  // The library demands these keys; files of old writers lack some.
  const required = { normalizer: null, post_processor: null, decoder: null, added_tokens: [] }
  const step = exactStep(json.pre_tokenizer ?? null)
  const words = split(`${MARK}+[^${MARK}]*`)
  const cut = wordsNeverMeet(json.model) ? (isObject(step) ? sequence(step, words) : words) : step
  return { ...required, ...json, pre_tokenizer: cut }
}
