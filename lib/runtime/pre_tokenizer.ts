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
    case 'ByteLevel':
      // A prefix space comes before the splitting, which Split cannot do.
      return step.use_regex === false || step.add_prefix_space
        ? step
        : sequence(split(GPT2_PATTERN), { ...step, use_regex: false })
    case 'Metaspace': {
      if (step.split === false) return step
      const mark = escaped(typeof step.replacement === 'string' ? step.replacement : '\u2581')
      return sequence(step, split(`[${mark}]?[^${mark}]+|[${mark}]`))
    }
    default:
      return step
  }
}

export function exactTokenizer(json: Record<string, unknown>): Record<string, unknown> {
  // The library demands these keys; files of old writers lack some.
  const required = {
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    added_tokens: [],
  }
  return { ...required, ...json, pre_tokenizer: exactStep(json.pre_tokenizer ?? null) }
}
