import { describe, expect, it } from 'vitest'
import { SlimError } from '../../lib/errors.js'
import type { GeneratedToken, Generation } from '../../lib/index.js'
import { rejection } from '../support/demo.js'
import { continuation, letterTokenizer, scriptedModel } from '../support/scripted_model.js'

async function textOf(generation: Generation): Promise<string> {
  let text = ''
  for await (const token of generation) text += token.text
  return text
}

const turns = async (count: number) => {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve))
}

const PROMPTS = ['once', 'upon a time', 'b', 'in a hole in the ground there lived', 'zz top', 'call me']

describe('a batch', () => {
  it('gives every sequence what it would get alone, whenever it comes and however long it is', async () => {
    const { model, native, steps, caches, tokenizer } = scriptedModel()
    const session = model.session({ maxSequences: 4, promptChunk: 7 })
    const texts = await Promise.all(
      PROMPTS.map(async (prompt, i) => {
        await turns(3 * i)
        return textOf(session.generate(prompt, { maxTokens: 5 + 4 * i }))
      }),
    )
    expect(texts).toEqual(PROMPTS.map((prompt, i) => continuation(tokenizer, prompt, 5 + 4 * i)))
    expect(Math.max(...steps.map(({ sequences }) => sequences.length))).toBeGreaterThan(2)
    expect(native.mostRunning).toBe(1)
    await session.dispose()
    expect(caches.every(({ disposed }) => disposed)).toBe(true)
  })

  it('takes prompts in by chunks, shared evenly, beside a token of every running sequence', async () => {
    const { model, steps } = scriptedModel()
    const session = model.session({ promptChunk: 8, keptCaches: 0 })
    const running = session.generate('a', { maxTokens: 40 })
    await running.next()
    const texts = [textOf(running)]
    texts.push(textOf(session.generate('b'.repeat(40), { maxTokens: 2 })))
    texts.push(textOf(session.generate('cccccc', { maxTokens: 2 })))
    await Promise.all(texts)
    const counts = steps.map(({ sequences }) => sequences.map(({ ids }) => ids.length))
    const first = counts.findIndex((step) => step.length === 3)
    // The running one goes on in every step; the short prompt is not behind the long one.
    expect(counts.slice(first, first + 3)).toEqual([
      [1, 4, 4],
      [1, 2, 6],
      [1, 1, 8],
    ])
    for (const step of counts) expect(step.reduce((sum, count) => sum + count, 0)).toBeLessThanOrEqual(8 + 2)
    // Only the last part of a prompt is followed by a draw.
    for (const { sequences } of steps)
      for (const { before, ids, drawn } of sequences)
        expect(drawn).toBe(before.length + ids.length >= { 2: 1, 3: 40, 4: 6 }[[...before, ...ids][0]!]!)
  })

  it('runs so many sequences at once and no more; the others wait in order', async () => {
    const { model, steps } = scriptedModel()
    const session = model.session({ maxSequences: 2 })
    const order: number[] = []
    const all = PROMPTS.map((prompt, i) =>
      textOf(session.generate(prompt, { maxTokens: 3 })).then(() => order.push(i)),
    )
    await turns(2)
    expect([session.activeSequences, session.waitingSequences]).toEqual([2, 4])
    await Promise.all(all)
    expect(Math.max(...steps.map(({ sequences }) => sequences.length))).toBe(2)
    expect(order).toEqual([0, 1, 2, 3, 4, 5])
    expect([session.activeSequences, session.waitingSequences]).toEqual([0, 0])
  })

  it('computes nothing before it is asked, and one token ahead at most; others go on', async () => {
    const { model, steps } = scriptedModel()
    const session = model.session()
    const slow = session.generate('slow', { maxTokens: 10 })
    await turns(5)
    expect(steps).toHaveLength(0)
    await slow.next()
    await turns(5)
    expect(steps).toHaveLength(2)
    expect(slow.generatedTokens).toBe(1)
    await textOf(session.generate('fast', { maxTokens: 20 }))
    expect(steps.length).toBeGreaterThan(20)
    const drawn = steps.flatMap(({ sequences }) => sequences).filter(({ before }) => before[0] === 2 + 18)
    expect(drawn).toHaveLength(1)
    expect(await textOf(slow)).toHaveLength(9)
    expect(slow.finishReason).toBe('length')
  })

  it('answers calls of next() that do not wait for each other in order', async () => {
    const { model, tokenizer } = scriptedModel()
    const generation = model.session().generate('a', { maxTokens: 3 })
    const results = await Promise.all(Array.from({ length: 5 }, () => generation.next()))
    expect(results.map(({ done }) => done)).toEqual([false, false, false, true, true])
    expect(results.map(({ value }) => value?.text ?? '').join('')).toBe(continuation(tokenizer, 'a', 3))
  })

  it.each([
    ['alone', 0],
    ['beside others', 1],
  ])('break ends a sequence and its step, %s', async (_, others) => {
    const { model, steps, caches, tokenizer } = scriptedModel()
    const session = model.session({ keptCaches: 0 })
    const kept = Array.from({ length: others }, () => textOf(session.generate('kept', { maxTokens: 6 })))
    const generation = session.generate('ended', { maxTokens: 50 })
    for await (const _token of generation) break
    expect(await Promise.all(kept)).toEqual(kept.map(() => continuation(tokenizer, 'kept', 6)))
    expect(steps.some(({ cancelled }) => cancelled)).toBe(others === 0)
    expect(caches.every(({ disposed }) => disposed)).toBe(true)
    expect(generation.finishReason).toBeNull()
    expect(await generation.next()).toEqual({ done: true, value: undefined })
  })

  it('the signal ends a sequence that runs, waits or has not begun', async () => {
    const { model, caches, tokenizer } = scriptedModel()
    const session = model.session({ maxSequences: 2, keptCaches: 0 })
    const controller = new AbortController()
    const { signal } = controller
    const other = textOf(session.generate('other', { maxTokens: 12 }))
    const running = session.generate('running', { maxTokens: 50, signal })
    await running.next()
    const waiting = rejection(session.generate('waiting', { signal }).next())
    await turns(1)
    const pending = rejection(running.next().then(() => running.next()))
    controller.abort(new Error('enough'))
    for (const error of [
      await pending,
      await waiting,
      await rejection(session.generate('late', { signal }).next()),
    ])
      expect(error).toMatchObject({ code: 'SLIM_ABORTED', cause: { message: 'enough' } })
    expect(await running.next()).toEqual({ done: true, value: undefined })
    expect(await other).toBe(continuation(tokenizer, 'other', 12))
    expect(caches.every(({ disposed }) => disposed)).toBe(true)
  })

  it('an error of a step goes to the sequence that caused it', async () => {
    const bad = 2 + 23
    const { model, caches, tokenizer } = scriptedModel({
      check: (ids) => {
        if (ids.includes(bad)) throw new SlimError('SLIM_TENSOR_NON_FINITE', 'x')
      },
      next: (ids) => 2 + (ids.length % 5),
    })
    const session = model.session({ keptCaches: 0 })
    const next = (ids: readonly number[]) => 2 + (ids.length % 5)
    const good = ['good', 'fine'].map((prompt) => textOf(session.generate(prompt, { maxTokens: 9 })))
    expect(await rejection(textOf(session.generate('x', { maxTokens: 9 })))).toMatchObject({
      code: 'SLIM_TENSOR_NON_FINITE',
    })
    expect(await Promise.all(good)).toEqual(
      ['good', 'fine'].map((prompt) => continuation(tokenizer, prompt, 9, next)),
    )
    expect(caches.every(({ disposed }) => disposed)).toBe(true)
  })
})

describe('prefix reuse', () => {
  const computed = (steps: { sequences: { ids: number[] }[] }[]) =>
    steps.flatMap(({ sequences }) => sequences).reduce((sum, { ids }) => sum + ids.length, 0)

  it('runs only what no cache of an ended sequence holds', async () => {
    const { model, steps, tokenizer } = scriptedModel()
    const session = model.session()
    const first = await textOf(session.generate('the same beginning', { maxTokens: 4 }))
    const before = computed(steps)
    const prompt = `the same beginning${first}, and more`
    const again = session.generate(prompt.replace(',', ''), { maxTokens: 3 })
    expect(await textOf(again)).toBe(continuation(tokenizer, prompt.replace(',', ''), 3))
    // The last token of the first text was drawn and not run.
    expect(again.reusedTokens).toBe('the same beginning'.length + 3)
    expect(computed(steps) - before).toBe(again.promptTokens - again.reusedTokens + 2)
    // Of a prompt that is there whole, the last token is run again.
    const whole = session.generate('the same', { maxTokens: 2 })
    expect(await textOf(whole)).toBe(continuation(tokenizer, 'the same', 2))
    expect(whole.reusedTokens).toBe('the same'.length - 1)
  })

  it('takes it from a running sequence, too', async () => {
    const { model, tokenizer } = scriptedModel()
    const session = model.session({ keptCaches: 0 })
    const running = session.generate('a system message. one', { maxTokens: 30 })
    await running.next()
    await turns(2)
    const other = session.generate('a system message. two', { maxTokens: 5 })
    expect(await textOf(other)).toBe(continuation(tokenizer, 'a system message. two', 5))
    expect(other.reusedTokens).toBe('a system message. '.length)
    expect((await textOf(running)).length).toBe(29)
  })

  it('keeps so many caches and no more', async () => {
    const { model, caches } = scriptedModel()
    const session = model.session({ maxSequences: 2, keptCaches: 1 })
    for (const prompt of PROMPTS) await textOf(session.generate(prompt, { maxTokens: 2 }))
    expect(caches.filter(({ disposed }) => !disposed)).toHaveLength(1)
    const none = session.generate(PROMPTS[0]!, { maxTokens: 2 })
    await textOf(none)
    expect(none.reusedTokens).toBe(0)
    await model.dispose()
    expect(caches.every(({ disposed }) => disposed)).toBe(true)
  })
})

describe('dispose', () => {
  it('ends all sequences, lets the step finish, and frees all caches', async () => {
    const { model, caches, native } = scriptedModel()
    const session = model.session({ maxSequences: 1 })
    const running = rejection(textOf(session.generate('a', { maxTokens: 50 })))
    const waiting = rejection(textOf(session.generate('b', { maxTokens: 50 })))
    await turns(3)
    await session.dispose()
    await session.dispose()
    expect(await running).toMatchObject({ code: 'SLIM_DISPOSED' })
    expect(await waiting).toMatchObject({ code: 'SLIM_DISPOSED' })
    expect(caches.every(({ disposed }) => disposed)).toBe(true)
    expect(await rejection(session.generate('c').next())).toMatchObject({ code: 'SLIM_DISPOSED' })
    expect(native.disposed).toBe(false)
    expect(await textOf(model.generate('d', { maxTokens: 2 }))).toHaveLength(2)
  })

  it('of the model ends its sessions and generations first', async () => {
    const { model, caches, native } = scriptedModel()
    const session = model.session()
    await textOf(session.generate('kept', { maxTokens: 2 }))
    const running = [session, model].map((one) => rejection(textOf(one.generate('a', { maxTokens: 50 }))))
    await turns(3)
    await model.dispose()
    expect(native.disposed).toBe(true)
    expect(caches.every(({ disposed }) => disposed)).toBe(true)
    for (const error of await Promise.all(running)) expect(error).toMatchObject({ code: 'SLIM_DISPOSED' })
  })
})

describe('options', () => {
  it('of a session are checked', async () => {
    const { model } = scriptedModel({ maxPositions: 100 })
    for (const [options, parameter] of [
      [{ maxSequences: 0 }, 'maxSequences'],
      [{ promptChunk: 0.5 }, 'promptChunk'],
      [{ keptCaches: -1 }, 'keptCaches'],
      [{ kvCache: 'F16' }, 'kvCache'],
      [{ contextLength: 101 }, 'contextLength'],
      [{ maxSequence: 2 }, 'maxSequence'],
    ] as const)
      expect(() => model.session(options as never)).toThrow(expect.objectContaining({ parameter }))
  })

  it('refuses what the context has no room for, and says what to do', async () => {
    const { model, caches } = scriptedModel({ maxPositions: 20 })
    const session = model.session({ contextLength: 16 })
    const error = await rejection(session.generate('a'.repeat(10), { maxTokens: 7 }).next())
    expect(error).toMatchObject({ code: 'SLIM_CONTEXT_LENGTH', parameter: 'maxTokens', received: '17' })
    expect(error.message).toMatch(/10 tokens .* 7 .* 16 .*no context shift.*shorten the prompt/)
    expect(await textOf(session.generate('a'.repeat(10), { maxTokens: 6 }))).toHaveLength(6)
    // Without maxTokens: what there is room for.
    expect(await textOf(session.generate('a'.repeat(13)))).toHaveLength(3)
    expect(await textOf(model.generate('a'.repeat(13)))).toHaveLength(7)
    expect(await rejection(session.generate('a'.repeat(16)).next())).toMatchObject({
      code: 'SLIM_CONTEXT_LENGTH',
    })
    expect(caches.every(({ capacity }) => capacity < 20)).toBe(true)
  })

  it('kvCache chooses how keys and values are kept', async () => {
    const { model, caches } = scriptedModel()
    await textOf(model.generate('a', { maxTokens: 1 }))
    await textOf(model.generate('a', { maxTokens: 1, kvCache: 'int8' }))
    await textOf(model.session({ kvCache: 'f32' }).generate('a', { maxTokens: 1 }))
    expect(caches.map(({ dtype }) => dtype)).toEqual(['F16', 'I8', 'F32'])
    expect(await rejection(model.generate('a', { kvCache: 'i8' as never }).next())).toMatchObject({
      parameter: 'kvCache',
    })
  })

  it('a chat is the text of its template', async () => {
    const { model, tokenizer } = scriptedModel()
    const messages = [
      { role: 'user', content: 'hi' },
      { role: 'assistant', content: 'ho' },
      { role: 'user', content: 'he' },
    ]
    const expected = continuation(tokenizer, 'u hi\na ho\nu he\n', 6)
    expect(await textOf(model.chat(messages, { maxTokens: 6 }))).toBe(expected)
    expect(await textOf(model.session().chat(messages, { maxTokens: 6 }))).toBe(expected)
    expect(await rejection(model.chat([]).next())).toMatchObject({ parameter: 'messages' })
  })
})

describe('the end of a text', () => {
  /** Continues any prompt with the tokens of a text. */
  function saying(text: string, stop?: string | string[], maxTokens = 20) {
    const tokenizer = letterTokenizer()
    const ids = [...tokenizer.encode(text)]
    const { model, steps } = scriptedModel({ tokenizer, next: (all) => ids[all.length - 2] ?? 1 })
    const generation = model.generate('a ', { maxTokens, stop })
    return { generation, steps }
  }
  const collect = async (generation: Generation) => {
    const tokens: GeneratedToken[] = []
    for await (const token of generation) tokens.push(token)
    return tokens
  }

  it('is the end token, which has no text', async () => {
    const { generation } = saying('abc')
    const tokens = await collect(generation)
    expect(tokens.map(({ text, tokenId }) => [text, tokenId])).toEqual([
      ['a', 2],
      ['b', 3],
      ['c', 4],
      ['', 1],
    ])
    expect(generation.finishReason).toBe('eos')
    expect([generation.promptTokens, generation.generatedTokens]).toEqual([2, 4])
  })

  it('is a stop string, held back while it may come', async () => {
    const { generation, steps } = saying('an end.enough', ['enough', '..'])
    const tokens = await collect(generation)
    expect(tokens.map(({ text }) => text)).toEqual([
      'a',
      'n',
      ' ',
      '',
      '',
      'end',
      '',
      '.',
      '',
      '',
      '',
      '',
      '',
    ])
    expect(generation.finishReason).toBe('stop')
    await turns(3)
    expect(steps).toHaveLength(13)
  })

  it('shows what was held back when the text ends otherwise', async () => {
    const { generation } = saying('no en', 'end', 5)
    expect((await collect(generation)).map(({ text }) => text)).toEqual(['n', 'o', ' ', '', 'en'])
    expect(generation.finishReason).toBe('length')
  })

  it('comes at once without tokens to make', async () => {
    const { generation, steps } = saying('abc', [], 0)
    expect(await collect(generation)).toEqual([])
    expect(generation.finishReason).toBe('length')
    expect(steps).toHaveLength(0)
  })

  it('gives alternatives where they are asked for', async () => {
    const { model } = scriptedModel()
    const [without] = await collect(model.generate('a', { maxTokens: 1 }))
    expect(without).not.toHaveProperty('top')
    const [token] = await collect(model.generate('a', { maxTokens: 1, logprobs: 1 }))
    expect(token!.top).toEqual([{ tokenId: token!.tokenId, logprob: -1 }])
  })
})
