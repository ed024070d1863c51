/** `slimllm generate` and `slimllm bench`, on a copy of the demo model with a chat template. */
import { spawn, spawnSync } from 'node:child_process'
import { cpSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { packageRoot } from '../../lib/native/addon.js'
import { demo } from '../support/demo.js'
import { hasProgram } from '../support/native_child.js'
import { temporaryFolder } from '../support/temporary.js'

const cli = path.join(packageRoot(), 'dist', 'cli', 'main.js')
const model = path.join(temporaryFolder(), 'chatty')
const slimllm = (args: string[], input = '') =>
  spawnSync(process.execPath, [cli, ...args], { encoding: 'utf8', input })
const events = (stdout: string) =>
  stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))

beforeAll(() => {
  cpSync(demo, model, { recursive: true })
  writeFileSync(
    path.join(model, 'chat_template.jinja'),
    '{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}',
  )
})

describe('slimllm generate', () => {
  it('takes all options of generation', () => {
    const sampling = [
      ...['--temperature', '0.9', '--top-k', '50', '--top-p', '0.95', '--min-p', '0.01', '--seed', '7'],
      ...['--repetition-penalty', '1.2', '--repetition-window', '32', '--kv-cache', 'int8'],
    ]
    const args = [
      'generate',
      model,
      '--prompt',
      'It was',
      '--max-tokens',
      '12',
      '--logprobs',
      '2',
      ...sampling,
    ]
    const lines = events(slimllm([...args, '--json']).stdout)
    const tokens = lines.filter(({ event }) => event === 'token')
    expect(tokens).toHaveLength(12)
    for (const { top } of tokens) expect(top).toHaveLength(2)
    const result = lines.at(-1)
    expect(result).toMatchObject({ event: 'result', tokens: 12, finishReason: 'length' })
    expect(result.text).toBe(tokens.map(({ text }) => text).join(''))
    const human = slimllm(args)
    expect(human.stdout).toBe(`${result.text}\n`)
    expect(human.stderr).toMatch(/^prompt: \d+ tokens, .* a second; text: 12 tokens, .* a second\n$/)
    const stop = result.text.slice(6, 9)
    const stopped = events(slimllm([...args, '--stop', 'never', '--stop', stop, '--json']).stdout).at(-1)
    expect(stopped).toMatchObject({ finishReason: 'stop', text: result.text.split(stop)[0] })
  })

  it('chats, a turn a line, each with all before it', () => {
    const args = ['generate', model, '--chat', '--system', 'Be kind.', '--max-tokens', '5']
    const lines = events(slimllm([...args, '--json'], 'Hello\n\nWho are you?\n').stdout)
    const answers = lines.filter(({ event }) => event === 'answer')
    expect(answers).toHaveLength(2)
    expect(answers[1].reusedTokens).toBeGreaterThanOrEqual(answers[0].promptTokens)
    expect(lines.at(-1)).toMatchObject({
      ...{ event: 'result', turns: 2, tokens: 10 },
      messages: [
        { role: 'system', content: 'Be kind.' },
        { role: 'user', content: 'Hello' },
        { role: 'assistant', content: answers[0].text },
        { role: 'user', content: 'Who are you?' },
        { role: 'assistant', content: answers[1].text },
      ],
    })
    const human = slimllm(args, 'Hello\nWho are you?')
    expect(human.stdout).toBe(`${answers[0].text}\n${answers[1].text}\n`)
    const one = slimllm([...args, '--prompt', 'Hello'])
    expect(one.stdout).toBe(`${answers[0].text}\n`)
  })

  it.each([
    [['generate', demo], 2, /--prompt .*--chat/],
    [['generate', demo, '--prompt', 'a', '--system', 'b'], 2, /--system/],
    [['generate', demo, '--prompt', 'a', '--kv-cache', 'f8'], 2, /--kv-cache/],
    [['generate', demo, '--prompt', 'a', '--top-p', '2'], 2, /--top-p/],
    [['generate', demo, '--prompt', 'a', '--max-tokens', '2000'], 1, /SLIM_CONTEXT_LENGTH.*--max-tokens/],
    [['generate', demo, '--chat', '--prompt', 'a'], 1, /SLIM_CHAT_TEMPLATE.*is missing/],
  ])('ends %j with exit code %i', (args, status, words) => {
    const run = slimllm(args)
    expect(run.stderr).toMatch(words)
    expect(run.status).toBe(status)
  })

  it('ends at Ctrl-C with exit code 130', async () => {
    const child = spawn(process.execPath, [
      cli,
      'generate',
      model,
      '--prompt',
      'It was',
      '--max-tokens',
      '1000',
    ])
    child.stdout.once('data', () => child.kill('SIGINT'))
    expect(await new Promise((resolve) => child.on('exit', resolve))).toBe(130)
  })

  const terminal = hasProgram('script')
  it.skipIf(!terminal)('on a terminal: Ctrl-C stops the answer, Ctrl-D ends', async () => {
    const command = `'${process.execPath}' '${cli}' generate '${model}' --chat --threads 1`
    const child = spawn('script', ['-qec', command, '/dev/null'])
    let shown = ''
    const until = (pattern: RegExp) =>
      new Promise<void>((resolve) => {
        const look = () => {
          if (!pattern.test(shown)) return
          child.stdout.off('data', look)
          resolve()
        }
        child.stdout.on('data', look)
        look()
      })
    child.stdout.on('data', (data) => {
      shown += data
    })
    await until(/Ctrl-D ends\.[\s\S]*> /)
    child.stdin.write('Hello\n')
    await until(/Hello\r*\n[\s\S]{20}/)
    shown = ''
    child.stdin.write('\x03')
    await until(/> /)
    child.stdin.write('\x04')
    expect(await new Promise((resolve) => child.on('exit', resolve))).toBe(0)
  })
  if (!terminal) console.warn('skipped: there is no `script` to make a terminal with')
})

describe('slimllm bench', () => {
  const args = [
    'bench',
    demo,
    '--prompt-tokens',
    '32',
    '--generate-tokens',
    '8',
    '--repeats',
    '3',
    '--threads',
    '1',
  ]

  it('prints a row a test', () => {
    const run = slimllm(args)
    expect(run.stdout).toMatch(
      /^llama, 10\.49 MB, 16\.000 bits a weight; .* kernels, 1 threads, f16 cache\n\ntest /,
    )
    expect(run.stdout).toMatch(
      /\npp32 +\d+\.\d\d +\d+\.\d\d +\d+\.\d\d\ntg8 +\d+\.\d\d +\d+\.\d\d +\d+\.\d\d\n$/,
    )
    expect(slimllm([...args, '--generate-tokens', '0']).stdout).not.toMatch(/tg/)
  })

  it('gives every sample as JSON', () => {
    const result = events(slimllm([...args, '--kv-cache', 'f32', '--json']).stdout).at(-1)
    expect(result).toMatchObject({ event: 'result', modelType: 'llama', threads: 1, kvCache: 'f32' })
    for (const { samples, mean, median, standardDeviation } of [result.prompt, result.generate]) {
      expect(samples).toHaveLength(3)
      expect(mean).toBeCloseTo((samples[0] + samples[1] + samples[2]) / 3, 6)
      expect(median).toBe(samples.sort((a: number, b: number) => a - b)[1])
      const squares = samples.map((x: number) => (x - mean) ** 2)
      expect(standardDeviation).toBeCloseTo(Math.sqrt((squares[0] + squares[1] + squares[2]) / 2), 6)
    }
  })

  it.each([
    ['--repeats', '0'],
    ['--prompt-tokens', '1025'],
  ])('refuses %s %s', (flag, value) => {
    const run = slimllm([...args, flag, value])
    expect(run.status).toBe(2)
    expect(run.stderr).toContain(flag)
  })
})
