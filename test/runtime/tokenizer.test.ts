import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js'
import { loadTokenizer, type Tokenizer } from '../../lib/runtime/tokenizer.js'
import { expectSlimError } from '../support/expect_error.js'
import { demo, sharedPath } from '../support/models.js'

const sha256 = (ids: Int32Array) => createHash('sha256').update(ids).digest('hex')

async function tokenizerOf(location: string): Promise<Tokenizer> {
  using checkpoint = await openCheckpoint(location)
  return loadTokenizer(checkpoint)
}

describe('the demo model', () => {
  // Count and SHA-256 of the int32 stream, from the Rust library.
  const golden = {
    'heldout.txt': [72486, '7ddfd6c0eb9a86663f1b51779eaf72ddcafa7ad72a9a7379ca752e42cc03f897'],
    'calibration.txt': [104959, '40de12c85eb142579f6a1763f121266d5969645933d6a5dec8ae35768a8eeda0'],
  } as const
  for (const [name, [count, hash]] of Object.entries(golden))
    it(`has the tokens of ${name}, and its text from them`, async () => {
      const tokenizer = await tokenizerOf(demo)
      const text = readFileSync(path.join(demo, name), 'utf8')
      const ids = tokenizer.encode(text)
      expect(ids.length).toBe(count)
      expect(sha256(ids)).toBe(hash)
      expect(tokenizer.decode(ids)).toBe(text)
    })

  it('knows its special tokens', async () => {
    const tokenizer = await tokenizerOf(demo)
    expect([tokenizer.eosTokenIds, tokenizer.bosTokenId, tokenizer.vocabSize]).toEqual([[1], 0, 2048])
    const ids = tokenizer.encode('<s>a</s>')
    expect([ids[0], ids.at(-1)]).toEqual([0, 1])
    expect(tokenizer.decode(ids)).toBe('<s>a</s>')
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe('a')
  })

  it('has no tokens for no text, and no text for no tokens', async () => {
    const tokenizer = await tokenizerOf(demo)
    expect([...tokenizer.encode('')]).toEqual([])
    expect(tokenizer.decode([])).toBe('')
    expect(tokenizer.decode([99999, -1])).toBe('')
    await expectSlimError(() => tokenizer.encode(undefined as never), 'SLIM_INVALID_ARGUMENT', {
      parameter: 'text',
    })
  })

  it('keeps the spaces before punctuation', async () => {
    const tokenizer = await tokenizerOf(demo)
    const text = "a , b . c 's do n't !"
    expect(tokenizer.decode(tokenizer.encode(text))).toBe(text)
  })
})

describe('the same tokens as the Rust library', () => {
  interface Golden {
    models: Record<string, Record<string, unknown>>
    texts: Record<string, string[]>
    cases: { name: string; model: string; pre_tokenizer: unknown; normalizer: unknown; ids: number[][] }[]
  }
  const file = new URL('../fixtures/tokenizer/golden.json', import.meta.url)
  const golden = JSON.parse(readFileSync(file, 'utf8')) as Golden
  for (const { name, model, pre_tokenizer, normalizer, ids } of golden.cases)
    it(`with the pre-tokenizer ${name}`, () => {
      const json = { ...golden.models[model], pre_tokenizer, normalizer }
      const tokenizer = loadTokenizer({ json, config: {} })
      const texts = golden.texts[model === 'byteLevel' ? 'byteLevel' : 'marks']!
      texts.forEach((text, i) => {
        expect({ text, ids: [...tokenizer.encode(text)] }).toEqual({ text, ids: ids[i] })
      })
    })

  it('where a text of 200,000 words is one run of marks and letters', () => {
    const { marks } = golden.models
    const json = { ...marks, normalizer: { type: 'Replace', pattern: { String: ' ' }, content: '\u2581' } }
    const tokenizer = loadTokenizer({ json, config: {} })
    const once = [...tokenizer.encode(' the thin hat')]
    const ids = tokenizer.encode(' the thin hat'.repeat(70_000))
    expect(ids.length).toBe(once.length * 70_000)
    expect([...ids.subarray(-once.length)]).toEqual(once)
  })
})

describe('ends of text', () => {
  const json = {
    added_tokens: ['<a>', '<b>', '<c>'].map((content, id) => ({ id, content, special: true })),
    model: { type: 'BPE', vocab: { '<a>': 0, '<b>': 1, '<c>': 2, x: 3 }, merges: [] },
  }

  it('come from all configurations', () => {
    const tokenizer = loadTokenizer({
      json,
      config: { eos_token: { content: '<a>' }, bos_token: '<c>' },
      modelConfig: { eos_token_id: 1, bos_token_id: 3 },
      generationConfig: { eos_token_id: [2, 1] },
    })
    expect([tokenizer.eosTokenIds, tokenizer.bosTokenId]).toEqual([[2, 1, 0], 2])
  })

  it('may be none', () => {
    const tokenizer = loadTokenizer({
      json,
      config: { eos_token: null },
      modelConfig: { eos_token_id: null },
    })
    expect([tokenizer.eosTokenIds, tokenizer.bosTokenId]).toEqual([[], null])
  })
})

describe('a tokenizer that cannot be used', () => {
  it('is missing', async () => {
    const source = { path: 'some/model', config: {}, generationConfig: {}, tokenizer: null }
    await expectSlimError(
      () => loadTokenizer(source),
      'SLIM_FILE_NOT_FOUND',
      { file: 'some/model' },
      'tokenizer.json',
    )
  })

  for (const [what, json] of [
    ['has no model', {}],
    ['has a model of an unknown kind', { model: { type: 'Oracle' } }],
    ['has no vocabulary', { model: { type: 'BPE', merges: [] } }],
    [
      'has an unknown pre-tokenizer',
      { model: { type: 'BPE', vocab: {}, merges: [] }, pre_tokenizer: { type: 'Scissors' } },
    ],
    ['has added tokens that are no list', { model: { type: 'BPE', vocab: {}, merges: [] }, added_tokens: 3 }],
  ] as [string, Record<string, unknown>][])
    it(what, async () => {
      const source = { json, config: {}, path: 'some/model' }
      await expectSlimError(() => loadTokenizer(source), 'SLIM_UNSUPPORTED_TOKENIZER', { file: 'some/model' })
    })
})

const smol = sharedPath('models', 'smollm2-135m-instruct')
const wikitext = sharedPath('data', 'wikitext-2-raw')

describe.skipIf(!smol || !wikitext)('SmolLM2 from its GGUF file', () => {
  interface Golden {
    tokens: Record<string, { count: number; first: number[]; sha256_int32_le: string }>
    encode: { text: string; ids: number[] }[]
    greedy: { prompt: string; ids: number[]; continuation: number[]; text: string }[]
  }
  const golden = () => JSON.parse(readFileSync(path.join(smol!, 'golden.json'), 'utf8')) as Golden
  const load = () => tokenizerOf(path.join(smol!, 'SmolLM2-135M-Instruct.Q4_1.gguf'))

  it('has the tokens of WikiText-2, and its text from them', async () => {
    const tokenizer = await load()
    for (const [name, { count, first, sha256_int32_le }] of Object.entries(golden().tokens)) {
      const text = readFileSync(path.join(wikitext!, name), 'utf8')
      const ids = tokenizer.encode(text)
      expect(ids.length).toBe(count)
      expect([...ids.subarray(0, first.length)]).toEqual(first)
      expect(sha256(ids)).toBe(sha256_int32_le)
      expect(tokenizer.decode(ids)).toBe(text)
    }
  })

  it('has the tokens of odd texts and of chats', async () => {
    const tokenizer = await load()
    for (const { text, ids } of golden().encode) expect([...tokenizer.encode(text)]).toEqual(ids)
    for (const { prompt, ids, continuation, text } of golden().greedy) {
      expect([...tokenizer.encode(prompt)]).toEqual(ids)
      expect(tokenizer.decode(continuation)).toBe(text)
    }
    expect([tokenizer.eosTokenIds, tokenizer.bosTokenId, tokenizer.vocabSize]).toEqual([[2], 1, 49152])
  })
})
