import { beforeAll, describe, expect, it } from 'vitest'
import { loadTokenizer, openCheckpoint, type Tokenizer } from '../../lib/index.js'
import { SplitMix64 } from '../../lib/random.js'
import { TextStream } from '../../lib/runtime/text_stream.js'
import { demo } from '../support/demo.js'

/** SentencePiece's kind, as Llama 2 has it: spaces are marks, the first is dropped, unknown characters are bytes. */
function marks(): Tokenizer {
  const bytes = Array.from({ length: 256 }, (_, b) => `<0x${b.toString(16).toUpperCase().padStart(2, '0')}>`)
  const tokens = ['<s>', '</s>', ...bytes, '\u2581', 'a', 'b', '\u2581a', '\u2581b', '.']
  const decoders = [
    { type: 'Replace', pattern: { String: '\u2581' }, content: ' ' },
    { type: 'ByteFallback' },
    { type: 'Fuse' },
    { type: 'Strip', content: ' ', start: 1, stop: 0 },
  ]
  return loadTokenizer({
    json: {
      added_tokens: [0, 1].map((id) => ({ id, content: tokens[id], special: true })),
      model: {
        type: 'BPE',
        vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
        merges: [
          ['\u2581', 'a'],
          ['\u2581', 'b'],
        ],
        byte_fallback: true,
        unk_token: '<s>',
      },
      normalizer: {
        type: 'Sequence',
        normalizers: [
          { type: 'Prepend', prepend: '\u2581' },
          { type: 'Replace', pattern: { String: ' ' }, content: '\u2581' },
        ],
      },
      decoder: { type: 'Sequence', decoders },
    },
    config: {},
  })
}

const TEXTS = [
  'a b  a. b',
  'a \u20ac\u20ac b \u{1f600}\u{1f600}a',
  '\u{1f9d1}\u200d\u{1f680} a',
  'caf\u00e9',
  '\u20ac',
]

describe('TextStream', () => {
  let bytes: Tokenizer
  beforeAll(async () => {
    using checkpoint = await openCheckpoint(demo)
    bytes = loadTokenizer(checkpoint)
  })
  const tokenizers = [['byte-level', () => bytes] as const, ['SentencePiece', marks] as const]

  it.each(tokenizers)('gives pieces that together are the whole text (%s)', (_, tokenizer) => {
    for (const text of TEXTS) {
      const ids = tokenizer().encode(text)
      const stream = new TextStream(tokenizer())
      const pieces = [...ids].map((id) => stream.push(id))
      expect(pieces.join('') + stream.end()).toBe(tokenizer().decode(ids))
      expect(pieces.join('')).toBe(text)
      for (const piece of pieces) expect(piece).not.toContain('\uFFFD')
    }
  })

  it.each(tokenizers)('continues a prompt, spaces and unfinished characters too (%s)', (_, tokenizer) => {
    for (const text of TEXTS) {
      const ids = tokenizer().encode(text)
      for (let cut = 1; cut < ids.length; cut++) {
        const stream = new TextStream(tokenizer(), ids.subarray(0, cut))
        const shown = tokenizer()
          .decode(ids.subarray(0, cut))
          .replace(/\uFFFD+$/, '')
        const pieces = [...ids.subarray(cut)].map((id) => stream.push(id))
        expect(shown + pieces.join('') + stream.end()).toBe(text)
      }
    }
  })

  it('shows an unfinished character at the end, once', () => {
    const ids = bytes.encode('a \u{1f600}').slice(0, -1)
    const stream = new TextStream(bytes)
    const pieces = [...ids].map((id) => stream.push(id))
    expect(pieces.join('')).toBe('a ')
    expect(stream.end()).toBe('\uFFFD')
    expect(stream.end()).toBe('')
  })

  it.each([
    ['random tokens', (random: SplitMix64) => 2 + random.below(2046)],
    ['bytes that make no character', () => 2 + 0x80],
    ['tokens without text', () => 100_000],
  ])('decodes a bounded number of tokens for each of %s', (_, next) => {
    let decoded = 0
    const counting = {
      decode: (ids: ArrayLike<number>) => {
        decoded += ids.length
        return bytes.decode(ids)
      },
    }
    const stream = new TextStream(counting)
    const random = new SplitMix64(1)
    for (let i = 0; i < 2000; i++) stream.push(next(random))
    expect(decoded).toBeLessThan(2000 * 48)
  })
})
