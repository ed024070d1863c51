import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { expect, it } from 'vitest'
import { type Checkpoint, openCheckpoint } from '../../lib/checkpoint/checkpoint.js'
import { saveCheckpoint } from '../../lib/checkpoint/save.js'
import { loadTokenizer } from '../../lib/runtime/tokenizer.js'
import { expectSlimError } from '../support/expect_error.js'
import { writeGguf } from '../support/gguf.js'
import { demo } from '../support/models.js'
import { temporaryFolder } from '../support/temporary.js'
import { tinyLlama } from '../support/tiny_llama.js'

const folder = temporaryFolder()
const inFolder = (name: string) => path.join(folder, name)

async function expectSameTensors(a: Checkpoint, b: Checkpoint) {
  expect([...b.tensors.keys()].sort()).toEqual([...a.tensors.keys()].sort())
  for (const [name, { shape, dtype }] of a.tensors) {
    const [left, right] = [await a.tensor(name), await b.requireTensor(name, shape, [dtype])]
    expect(Buffer.from(left.toBytes()).equals(right.toBytes())).toBe(true)
    left.dispose()
    right.dispose()
  }
}

it('writes a GGUF file as a Hugging Face folder, the same bytes every time', async () => {
  using source = await openCheckpoint(writeGguf(inFolder('tiny.gguf'), tinyLlama().input))
  const [first, second] = [inFolder('first'), inFolder('second')]
  await saveCheckpoint(source, first)
  await saveCheckpoint(source, second)
  expect(readdirSync(first).sort()).toEqual([
    'config.json',
    'model.safetensors',
    'tokenizer.json',
    'tokenizer_config.json',
  ])
  for (const name of readdirSync(first))
    expect(readFileSync(path.join(first, name)).equals(readFileSync(path.join(second, name)))).toBe(true)
  using saved = await openCheckpoint(first)
  expect(saved.format).toBe('huggingface')
  expect(saved.config).toEqual(source.config)
  expect(saved.tokenizer).toEqual(source.tokenizer)
  await expectSameTensors(source, saved)
  const text = 'the 12 <user> the\u0085'
  expect([...loadTokenizer(saved).encode(text)]).toEqual([...loadTokenizer(source).encode(text)])
})

it('writes a Hugging Face folder in shards, into an empty folder', async () => {
  using source = await openCheckpoint(demo)
  const output = inFolder('sharded')
  mkdirSync(output)
  await saveCheckpoint(source, output, { maxShardBytes: 2 ** 20 })
  const names = readdirSync(output)
  const shards = names.filter((name) => /^model-\d{5}-of-\d{5}\.safetensors$/.test(name))
  expect(shards.length).toBeGreaterThan(5)
  expect(names).toContain('model.safetensors.index.json')
  expect(names).not.toContain('model.safetensors')
  const index = JSON.parse(readFileSync(path.join(output, 'model.safetensors.index.json'), 'utf8'))
  const bytes = [...source.tensors.values()].reduce((sum, { byteLength }) => sum + byteLength, 0)
  expect(index.metadata.total_size).toBe(bytes)
  for (const name of ['config.json', 'tokenizer.json', 'tokenizer_config.json'])
    expect(readFileSync(path.join(output, name)).equals(readFileSync(path.join(demo, name)))).toBe(true)
  using saved = await openCheckpoint(output)
  await expectSameTensors(source, saved)
  // Each shard but those of one large tensor keeps to the limit.
  for (const shard of shards) {
    const held = [...saved.tensors.values()].filter(({ file }) => path.basename(file) === shard)
    const total = held.reduce((sum, { byteLength }) => sum + byteLength, 0)
    expect(held.length === 1 || total <= 2 ** 20).toBe(true)
  }
})

it('does not touch a folder that is not empty', async () => {
  using source = await openCheckpoint(demo)
  const output = inFolder('mine')
  mkdirSync(output)
  writeFileSync(path.join(output, 'notes.txt'), 'x')
  await expectSlimError(() => saveCheckpoint(source, output), 'SLIM_OUTPUT_EXISTS', { file: output })
  expect(readdirSync(output)).toEqual(['notes.txt'])
})

it('leaves nothing when it is aborted or fails', async () => {
  using source = await openCheckpoint(demo)
  const parent = inFolder('parent')
  const output = path.join(parent, 'out')
  await expectSlimError(() => saveCheckpoint(source, output, { signal: AbortSignal.abort() }), 'SLIM_ABORTED')
  expect(readdirSync(parent)).toEqual([])
  const broken = writeGguf(inFolder('broken.gguf'), tinyLlama().input)
  using failing = await openCheckpoint(broken)
  writeFileSync(broken, 'short')
  await expectSlimError(() => saveCheckpoint(failing, output), 'SLIM_FILE_TRUNCATED', { file: broken })
  expect(readdirSync(parent)).toEqual([])
})
