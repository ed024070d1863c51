import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { expect, it } from 'vitest'
import {
  hashFiles,
  readJson,
  readRange,
  readText,
  readUtf8,
  withAtomicFolder,
  writeFileAtomic,
} from '../lib/files.js'
import { expectSlimError } from './support/expect_error.js'
import { temporaryFolder } from './support/temporary.js'

const folder = temporaryFolder()
const inFolder = (name: string) => path.join(folder, name)

it('writes a file and replaces it, leaving nothing else', async () => {
  const directory = inFolder('plain')
  mkdirSync(directory)
  const file = path.join(directory, 'a.json')
  await writeFileAtomic(file, 'one')
  await writeFileAtomic(file, new Uint8Array([50]))
  expect(readFileSync(file, 'utf8')).toBe('2')
  expect(readdirSync(directory)).toEqual(['a.json'])
})

it('leaves the old file and no temporary one when writing fails', async () => {
  const directory = inFolder('failing')
  mkdirSync(directory)
  const file = path.join(directory, 'a')
  mkdirSync(file)
  await expectSlimError(() => writeFileAtomic(file, 'x'), 'SLIM_FILE_UNWRITABLE', { file })
  expect(readdirSync(directory)).toEqual(['a'])
})

it('says that the folder of a file to write is missing', async () => {
  const file = inFolder('nowhere/a')
  await expectSlimError(() => writeFileAtomic(file, 'x'), 'SLIM_FILE_NOT_FOUND', { file })
})

it('reports a full disk and removes what it had written', async ({ skip }) => {
  const limit = (bytes: string) =>
    execFileSync('prlimit', ['--pid', String(process.pid), `--fsize=${bytes}:`], { stdio: 'pipe' })
  try {
    execFileSync('prlimit', ['--version'], { stdio: 'pipe' })
  } catch {
    console.warn('skipped: prlimit, which stands in for a full disk, is not installed')
    return skip()
  }
  const directory = inFolder('full')
  mkdirSync(directory)
  const file = path.join(directory, 'big')
  // A limit on file sizes fails as a full disk does: some bytes are written, then an error comes.
  limit('65536')
  try {
    await expectSlimError(() => writeFileAtomic(file, new Uint8Array(1e6)), 'SLIM_NO_SPACE', { file })
  } finally {
    limit('unlimited')
  }
  expect(readdirSync(directory)).toEqual([])
})

it('names the file that cannot be read', async () => {
  const file = inFolder('absent')
  await expectSlimError(() => readText(file), 'SLIM_FILE_NOT_FOUND', { file })
  await expectSlimError(() => readText(folder), 'SLIM_FILE_UNREADABLE', { file: folder })
})

it('names the file whose JSON is broken or no object', async () => {
  const file = inFolder('broken.json')
  writeFileSync(file, '{"a": ')
  await expectSlimError(() => readJson(file), 'SLIM_BAD_CONFIG', { file })
  writeFileSync(file, '[1]')
  await expectSlimError(() => readJson(file), 'SLIM_BAD_CONFIG', { file }, 'object')
})

it('reads a range, and reports a file that ends before it', async () => {
  const file = inFolder('range')
  writeFileSync(
    file,
    Uint8Array.from({ length: 100 }, (_, i) => i),
  )
  const chunks: number[] = []
  for await (const chunk of readRange(file, 90, 5)) chunks.push(...chunk)
  expect(chunks).toEqual([90, 91, 92, 93, 94])
  await expectSlimError(
    async () => {
      for await (const _ of readRange(file, 90, 20));
    },
    'SLIM_FILE_TRUNCATED',
    { file },
  )
})

it('hashes names, lengths and bytes, and can be aborted', async () => {
  const [a, b] = [inFolder('hash-a'), inFolder('hash-b')]
  const hash = async () => (await hashFiles([a, b])).digest('hex')
  writeFileSync(a, 'one')
  writeFileSync(b, 'two')
  const first = await hash()
  expect(await hash()).toBe(first)
  writeFileSync(a, 'onet')
  writeFileSync(b, 'wo')
  expect(await hash()).not.toBe(first)
  await expectSlimError(() => hashFiles([a], AbortSignal.abort()), 'SLIM_ABORTED')
})

it('makes a folder whole or not at all', async () => {
  const parent = inFolder('folders')
  const output = path.join(parent, 'out')
  await expectSlimError(
    () =>
      withAtomicFolder(output, async (directory) => {
        await writeFileAtomic(path.join(directory, 'a'), '1')
        expect(readdirSync(parent)).not.toContain('out')
        await readText(path.join(directory, 'missing'))
      }),
    'SLIM_FILE_NOT_FOUND',
  )
  expect(readdirSync(parent)).toEqual([])
  mkdirSync(output)
  await withAtomicFolder(output, (directory) => writeFileAtomic(path.join(directory, 'a'), '1'))
  expect(readdirSync(parent)).toEqual(['out'])
  expect(readdirSync(output)).toEqual(['a'])
  await expectSlimError(() => withAtomicFolder(output, async () => {}), 'SLIM_OUTPUT_EXISTS', {
    file: output,
  })
  const file = path.join(output, 'a')
  await expectSlimError(() => withAtomicFolder(file, async () => {}), 'SLIM_OUTPUT_EXISTS', { file })
})

it('reads UTF-8 text, and says where bytes are not', async () => {
  const file = inFolder('text')
  const text = '\ufeffdéjà \u{1f642}\ufffd\0'
  writeFileSync(file, text)
  expect(await readUtf8(file)).toBe(text)
  const good = Buffer.from('é'.repeat(50_000))
  for (const [bytes, at] of [
    [Buffer.concat([good, Buffer.of(0xff), good]), 100_000],
    [Buffer.concat([good, Buffer.of(0xc3, 0x28)]), 100_001],
    [Buffer.concat([good, Buffer.of(0xf0, 0x9f)]), 100_002],
    [Buffer.of(0x80), 0],
  ] as const) {
    writeFileSync(file, bytes)
    await expectSlimError(() => readUtf8(file), 'SLIM_TEXT_ENCODING', { file }, `byte ${at} `)
  }
})
