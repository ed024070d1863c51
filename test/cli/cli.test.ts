import { spawn, spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { parseOverride } from '../../lib/cli/quantize.js'
import { packageRoot } from '../../lib/native/addon.js'
import { calibrationFile, demo, heldoutFile } from '../support/demo.js'
import { temporaryFolder } from '../support/temporary.js'

const cli = path.join(packageRoot(), 'dist', 'cli', 'main.js')
const folder = temporaryFolder()
const at = (name: string) => path.join(folder, name)
const slimllm = (...args: string[]) => spawnSync(process.execPath, [cli, ...args], { encoding: 'utf8' })
const lastEvent = (stdout: string) => JSON.parse(stdout.trim().split('\n').at(-1)!)
const quantizeArgs = (output: string, ...more: string[]) => [
  ...['quantize', demo, '--output', output, '--bits', '2', '--group-size', '32', '--method', 'slim'],
  ...[
    '--calibration',
    calibrationFile,
    '--samples',
    '4',
    '--seq-len',
    '64',
    '--seed',
    '0',
    '--threads',
    '2',
    ...more,
  ],
]

describe('slimllm', () => {
  it('quantizes, inspects, evaluates and generates, for people and as NDJSON', () => {
    const human = slimllm(...quantizeArgs(at('a')))
    expect(human.status).toBe(0)
    expect(human.stdout).toMatch(/stored bits a weight/)
    // A line for the sensitivity pass, and one for every block.
    const lines = human.stderr.trim().split('\n')
    expect(lines[0]).toContain('measuring how much each layer matters')
    expect(lines.slice(1).map((line) => line.match(/^block \d of 6/)?.[0])).toEqual(
      [1, 2, 3, 4, 5, 6].map((block) => `block ${block} of 6`),
    )
    const json = slimllm(...quantizeArgs(at('b'), '--json', '--override', '**.v_proj:bits=4,groupSize=64'))
    expect(json.stderr).toBe('')
    expect(lastEvent(json.stdout)).toMatchObject({ event: 'result', output: at('b') })
    expect(lastEvent(json.stdout).peakMemoryBytes).toBeGreaterThan(1e7)

    const inspected = lastEvent(slimllm('inspect', at('b'), '--json').stdout)
    expect(inspected).toMatchObject({ format: 'slimllm', blocks: 6, hiddenSize: 256 })
    expect(slimllm('inspect', at('a')).stdout).toMatch(
      /model\.layers\.5\.mlp\.down_proj +256×768 +1:\d+ 2:\d+ 3:\d+/,
    )
    expect(slimllm('inspect', demo).stdout).toMatch(/llama: 6 blocks/)

    const args = ['--file', heldoutFile, '--seq-len', '128', '--max-tokens', '1024']
    const evaluated = slimllm('eval', at('a'), ...args, '--reference', demo, '--json')
    const result = lastEvent(evaluated.stdout)
    expect(result).toMatchObject({ event: 'result', tokens: 1024 })
    expect(result.perplexity).toBeGreaterThan(result.referencePerplexity)
    expect(result.klDivergence).toBeGreaterThan(0)
    expect(result.top1Agreement).toBeGreaterThan(0.5)
    expect(result.storedBitsPerWeight).toBeGreaterThan(2)
    expect(slimllm('eval', at('a'), ...args).stdout).toContain(`perplexity ${result.perplexity.toFixed(4)}`)

    const text = slimllm('generate', at('a'), '--prompt', 'It was', '--max-tokens', '8')
    expect(text.status).toBe(0)
    expect(text.stdout.trim().length).toBeGreaterThan(3)
    const tokens = slimllm('generate', at('a'), '--prompt', 'It was', '--max-tokens', '8', '--json').stdout
    expect(lastEvent(tokens).text.trim()).toBe(text.stdout.trim())
  })

  it('names the flags that the user typed', () => {
    const run = slimllm(...quantizeArgs(at('never'), '--group-size', '48'))
    expect(run.stderr).toMatch(/one of 32, 64, 128, 256 for --group-size but received 48/)
    const json = lastEvent(slimllm(...quantizeArgs(at('never'), '--bits', '9', '--json')).stdout)
    expect(json).toMatchObject({ code: 'SLIM_INVALID_ARGUMENT', parameter: '--bits', received: '9' })
    const short = slimllm('eval', demo, '--file', path.join(demo, 'config.json'))
    expect(short.stderr).toMatch(/SLIM_TEXT_TOO_SHORT.* smaller --seq-len/)
  })

  it('warns of windows beyond the positions of the model', () => {
    const args = ['eval', demo, '--file', heldoutFile, '--seq-len', '1100', '--max-tokens', '1100']
    expect(slimllm(...args).stderr).toMatch(
      /^warning SLIM_BEYOND_POSITIONS: --seq-len 1100 .* 1024 positions/m,
    )
    const [first] = slimllm(...args, '--json').stdout.split('\n')
    expect(JSON.parse(first!)).toMatchObject({ event: 'warning', parameter: '--seq-len' })
  })

  it('inspects a packed folder without its manifest', () => {
    cpSync(at('a'), at('bare'), { recursive: true })
    rmSync(path.join(at('bare'), 'slimllm.json'))
    const run = slimllm('inspect', at('bare'))
    expect(run.status).toBe(0)
    expect(run.stdout).toMatch(
      /6 blocks.*\(slimllm\)\npacked by slimllm in 2 bits, group 32.*\n.*slimllm\.json/,
    )
    expect(lastEvent(slimllm('inspect', at('bare'), '--json').stdout)).toMatchObject({
      format: 'slimllm',
      manifest: null,
    })
  })

  it('shows progress while the demo evaluates', async () => {
    const child = spawn(process.execPath, [cli, 'demo'])
    let stderr = ''
    child.stderr.on('data', (chunk) => {
      stderr += chunk
      if (stderr.includes('window 64 of 128') && !child.killed) child.kill('SIGINT')
    })
    expect(await new Promise((resolve) => child.on('exit', resolve))).toBe(130)
    expect(stderr).toMatch(/^fp16: evaluating\nwindow 64 of 128, perplexity \d/)
  })

  it('says what is missing where there is no addon', () => {
    mkdirSync(at('package'))
    cpSync(path.join(packageRoot(), 'dist'), path.join(at('package'), 'dist'), { recursive: true })
    for (const name of ['package.json', 'node_modules'])
      symlinkSync(path.join(packageRoot(), name), path.join(at('package'), name))
    const doctor = path.join(at('package'), 'dist', 'cli', 'main.js')
    const run = spawnSync(process.execPath, [doctor, 'doctor'], { encoding: 'utf8' })
    expect(run.status).toBe(1)
    expect(run.stdout).toMatch(/processor: .*\nnative addon: missing: \S/)
    expect(run.stderr).toMatch(/SLIM_NO_ADDON.*build-native\.mjs/)
    const json = spawnSync(process.execPath, [doctor, 'doctor', '--json'], { encoding: 'utf8' })
    expect(lastEvent(json.stdout)).toMatchObject({ event: 'error', code: 'SLIM_NO_ADDON' })
  })

  it('says what the machine has', () => {
    expect(slimllm('doctor').stdout).toMatch(/native addon: loaded, (avx512|avx2|neon|portable) kernels/)
    expect(lastEvent(slimllm('doctor', '--json').stdout)).toMatchObject({
      event: 'result',
      node: process.version,
    })
  })

  it.each([
    [['quantise']],
    [['quantize', demo]],
    [['quantize', demo, '--output', 'x', '--bits', 'two']],
    [['quantize', demo, '--output', 'x', '--method', 'magic']],
    [['quantize', demo, '--output', 'x', '--bits', '11', '--calibration', calibrationFile]],
    [['quantize', demo, '--output', 'x', '--method', 'rtn', '--override', 'nonsense']],
  ])('ends %j with exit code 2 and writes nothing', (args) => {
    const run = slimllm(...args)
    expect(run.status).toBe(2)
    expect(run.stderr).not.toBe('')
    expect(run.stdout).toBe('')
    expect(existsSync('x')).toBe(false)
  })

  it('ends a failure with exit code 1 and its code, also as NDJSON', () => {
    const run = slimllm('eval', at('none'), '--file', heldoutFile)
    expect(run.status).toBe(1)
    expect(run.stderr).toMatch(/SLIM_FILE_NOT_FOUND/)
    expect(run.stderr).not.toMatch(/ at .*\.js:\d+/)
    const json = lastEvent(slimllm('eval', demo, '--file', at('none.txt'), '--json').stdout)
    expect(json).toMatchObject({ event: 'error', code: 'SLIM_FILE_NOT_FOUND', file: at('none.txt') })
  })

  it('stops at Ctrl-C with exit code 130, and continues when called again', async () => {
    const child = spawn(process.execPath, [
      cli,
      ...quantizeArgs(at('interrupted'), '--json', '--samples', '32'),
    ])
    let stdout = ''
    child.stdout.on('data', (chunk) => {
      stdout += chunk
      // Once: a second Ctrl-C ends the process at once.
      const thirdBlock = '"block":2,"blocks":6,"phase":"calibrate"'
      if (stdout.includes(thirdBlock) && !child.killed) child.kill('SIGINT')
    })
    const status = await new Promise((resolve) => child.on('exit', resolve))
    expect(status).toBe(130)
    expect(lastEvent(stdout)).toMatchObject({ event: 'error', code: 'SLIM_ABORTED' })
    expect(existsSync(at('interrupted'))).toBe(false)
    const partial = lastEvent(slimllm('inspect', at('interrupted.partial'), '--json').stdout)
    expect(partial).toMatchObject({ format: 'unfinished', blocksDone: 2, blocks: 6, writer: null })
    expect(slimllm('inspect', at('interrupted')).stdout).toMatch(
      /2 of 6 blocks are done.*\nGive the same command again \(--output .*interrupted, /,
    )
    cpSync(at('interrupted.partial'), at('continued.partial'), { recursive: true })
    const human = slimllm(...quantizeArgs(at('continued'), '--samples', '32'))
    expect(human.stderr).toMatch(/^Continuing an unfinished run: 2 of 6 blocks are done, \d.* left\n/)
    const again = slimllm(...quantizeArgs(at('interrupted'), '--json', '--samples', '32'))
    expect(again.status).toBe(0)
    expect(again.stdout).not.toContain('"block":0,"blocks":6,"phase":"calibrate"')
    expect(again.stdout).not.toContain('"phase":"sensitivity"')
    const [first] = again.stdout.split('\n')
    expect(JSON.parse(first!)).toMatchObject({ event: 'resume', blocksDone: 2, blocks: 6 })
    expect(JSON.parse(first!).secondsLeft).toBeGreaterThan(0)
  })

  it.each([['--json'], []])('finishes its work when nobody reads its output any longer (%s)', (...flags) => {
    const output = at(`unread${flags}`)
    const command = [process.execPath, cli, ...quantizeArgs(output, ...flags)]
      .map((word) => `'${word}'`)
      .join(' ')
    const script = `${command} 2>&1 | head -n 1; echo "status \${PIPESTATUS[0]}"`
    expect(spawnSync('bash', ['-c', script], { encoding: 'utf8' }).stdout).toMatch(/status 0\n$/)
    expect(existsSync(path.join(output, 'slimllm.json'))).toBe(true)
  })

  it('reports a full disk by its code, and leaves nothing under the final name', () => {
    // A limit on the size of files (in blocks of 1 KiB) fails a write as a full disk does.
    const command = [process.execPath, cli, ...quantizeArgs(at('full'), '--json')]
      .map((word) => `'${word}'`)
      .join(' ')
    const run = spawnSync('bash', ['-c', `ulimit -f 200; ${command}`], { encoding: 'utf8' })
    expect(run.status).toBe(1)
    expect(lastEvent(run.stdout)).toMatchObject({ event: 'error', code: 'SLIM_NO_SPACE' })
    expect(existsSync(at('full'))).toBe(false)
    expect(readdirSync(at('full.partial')).filter((name) => name.endsWith('.safetensors'))).toEqual([])
  })

  it('reads offsets from a file', () => {
    writeFileSync(at('offsets.json'), JSON.stringify({ offsets: [5, 900] }))
    const offsets = ['--offsets', at('offsets.json'), '--json']
    const run = slimllm(...quantizeArgs(at('offsets'), '--samples', '2', ...offsets))
    expect(run.status).toBe(0)
    // quantizeArgs asks for 4 samples.
    const contradiction = lastEvent(slimllm(...quantizeArgs(at('wrong'), ...offsets)).stdout)
    expect(contradiction).toMatchObject({ code: 'SLIM_INVALID_ARGUMENT', parameter: '--samples' })
    writeFileSync(at('no-offsets.json'), '{"starts":[5]}')
    const wrong = slimllm(...quantizeArgs(at('wrong'), '--offsets', at('no-offsets.json'), '--json'))
    expect(lastEvent(wrong.stdout)).toMatchObject({ code: 'SLIM_BAD_CONFIG', file: at('no-offsets.json') })
    const { manifest } = lastEvent(slimllm('inspect', at('offsets'), '--json').stdout)
    expect(manifest.calibration).toMatchObject({ samples: 2, seqLen: 64, seed: null, offsets: [5, 900] })
  })
})

describe('parseOverride', () => {
  it('reads globs and fields', () => {
    expect(parseOverride('**.down_proj:bits=3,groupSize=32')).toEqual([
      '**.down_proj',
      { bits: 3, groupSize: 32 },
    ])
    expect(parseOverride('a.*:skip')).toEqual(['a.*', { skip: true }])
    for (const text of ['a', ':bits=3', 'a:bits', 'a:colour=3', 'a:bits=x'])
      expect(() => parseOverride(text)).toThrow(/--override/)
  })
})
