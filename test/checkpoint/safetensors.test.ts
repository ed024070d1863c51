import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { readSafetensorsHeader } from '../../lib/checkpoint/safetensors.js'
import { type SafetensorsEntry, writeSafetensors } from '../../lib/checkpoint/safetensors_writer.js'
import { expectSlimError } from '../support/expect_error.js'
import { writeRawSafetensors } from '../support/safetensors.js'
import { temporaryFolder } from '../support/temporary.js'

const folder = temporaryFolder()
let files = 0
const newFile = () => path.join(folder, `${++files}.safetensors`)

const f32 = (shape: number[], begin: number, end: number) => ({
  dtype: 'F32',
  shape,
  data_offsets: [begin, end],
})

describe('a good header', () => {
  it('gives places, shapes and metadata, in the order of the bytes', async () => {
    const file = writeRawSafetensors(
      newFile(),
      {
        second: f32([2], 8, 16),
        __metadata__: { format: 'pt' },
        first: { dtype: 'I64', shape: [1], data_offsets: [0, 8] },
        empty: f32([0, 3], 8, 8),
        scalar: { dtype: 'BOOL', shape: [], data_offsets: [16, 17] },
      },
      17,
    )
    const { tensors, metadata } = await readSafetensorsHeader(file)
    const start = readFileSync(file).length - 17
    expect([...tensors.keys()]).toEqual(['first', 'empty', 'second', 'scalar'])
    expect(tensors.get('second')).toEqual({
      name: 'second',
      dtype: 'F32',
      storedDtype: 'F32',
      shape: [2],
      file,
      byteOffset: start + 8,
      byteLength: 8,
    })
    expect(metadata).toEqual({ format: 'pt' })
  })

  it('may have trailing spaces and a tensor with an odd name', async () => {
    const file = writeRawSafetensors(
      newFile(),
      '{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}   ',
      1,
    )
    expect([...(await readSafetensorsHeader(file)).tensors.keys()]).toEqual(['__proto__'])
  })
})

describe('a bad file', () => {
  it('is missing', async () => {
    const file = newFile()
    await expectSlimError(() => readSafetensorsHeader(file), 'SLIM_FILE_NOT_FOUND', { file })
  })

  it('is shorter than a header', async () => {
    const file = newFile()
    writeFileSync(file, 'abc')
    await expectSlimError(() => readSafetensorsHeader(file), 'SLIM_FILE_TRUNCATED', { file })
  })

  it('is a Git LFS pointer', async () => {
    const file = newFile()
    writeFileSync(file, 'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 10\n')
    await expectSlimError(() => readSafetensorsHeader(file), 'SLIM_BAD_HEADER', { file }, 'git lfs pull')
  })

  const t = f32([1], 0, 4)
  const entry = (fields: object) => ({ t: { ...t, ...fields } })
  const headers: [string, object | string, number, bigint?][] = [
    ['claims a header of 2^64 - 1 bytes', { t }, 4, 2n ** 64n - 1n],
    ['has a header that is no JSON', '{"t": {"dtype"', 4],
    ['has a header that is no object', '[1, 2]', 4],
    ['has a header that does not begin with {', ' {}', 0],
    ['has metadata that are not strings', { __metadata__: { a: 1 }, t }, 4],
  ]
  for (const [what, header, data, length] of headers)
    it(what, async () => {
      const file = writeRawSafetensors(newFile(), header, data, length)
      await expectSlimError(() => readSafetensorsHeader(file), 'SLIM_BAD_HEADER', { file })
    })

  it('ends within its header', async () => {
    const file = writeRawSafetensors(newFile(), { t }, 4, 1000n)
    await expectSlimError(() => readSafetensorsHeader(file), 'SLIM_FILE_TRUNCATED', { file }, '1008')
    const whole = writeRawSafetensors(newFile(), { t }, 4)
    truncateSync(whole, 20)
    await expectSlimError(() => readSafetensorsHeader(whole), 'SLIM_FILE_TRUNCATED', { file: whole })
  })

  it('claims a header over 100 MB that the file would have room for', async () => {
    const file = writeRawSafetensors(newFile(), { t }, 4, 200_000_000n)
    truncateSync(file, 300_000_000)
    await expectSlimError(
      () => readSafetensorsHeader(file),
      'SLIM_BAD_HEADER',
      { file },
      '200000000',
      '300000000',
    )
  })

  it('has a header that is not UTF-8', async () => {
    const file = newFile()
    writeFileSync(
      file,
      Buffer.concat([Buffer.from([5, 0, 0, 0, 0, 0, 0, 0]), Buffer.from('{"\xff":', 'latin1')]),
    )
    await expectSlimError(() => readSafetensorsHeader(file), 'SLIM_BAD_HEADER', { file }, 'UTF-8')
  })

  const entries: [string, object, number][] = [
    ['has a tensor that is no object', { t: 3 }, 4],
    ['has a tensor without dtype', { t: { shape: [1], data_offsets: [0, 4] } }, 4],
    ['has a shape that is no array', entry({ shape: 1 }), 4],
    ['has a negative dimension', entry({ shape: [-1] }), 4],
    ['has a fractional dimension', entry({ shape: [1.5] }), 4],
    ['has a dimension over 2^53', entry({ shape: [2 ** 60] }), 4],
    ['has dimensions whose product overflows', entry({ shape: [2 ** 40, 2 ** 40] }), 4],
    ['has no data offsets', entry({ data_offsets: undefined }), 4],
    ['has three data offsets', entry({ data_offsets: [0, 4, 8] }), 4],
    ['has negative data offsets', entry({ data_offsets: [-4, 0] }), 4],
    ['has a tensor that ends before it begins', entry({ data_offsets: [4, 0] }), 4],
    ['has fewer bytes than dtype and shape say', entry({ shape: [2] }), 4],
    ['has more bytes than dtype and shape say', entry({ dtype: 'F16' }), 4],
    ['has a hole before a tensor', entry({ data_offsets: [4, 8] }), 8],
    ['has a hole between tensors', { a: t, t: f32([1], 8, 12) }, 12],
  ]
  for (const [what, header, data] of entries)
    it(what, async () => {
      const file = writeRawSafetensors(newFile(), header, data)
      await expectSlimError(() => readSafetensorsHeader(file), 'SLIM_BAD_HEADER', { file, tensor: 't' })
    })

  it('has bytes after the last tensor', async () => {
    const file = writeRawSafetensors(newFile(), { t }, 5)
    await expectSlimError(() => readSafetensorsHeader(file), 'SLIM_BAD_HEADER', { file }, '1 bytes after')
  })

  it('has overlapping tensors', async () => {
    const file = writeRawSafetensors(newFile(), { a: f32([2], 0, 8), b: f32([2], 4, 12) }, 12)
    await expectSlimError(
      () => readSafetensorsHeader(file),
      'SLIM_TENSOR_OVERLAP',
      { file, tensor: 'b' },
      'a and b',
    )
  })

  it('has two tensors in the same bytes', async () => {
    const file = writeRawSafetensors(newFile(), { a: t, b: t }, 4)
    await expectSlimError(() => readSafetensorsHeader(file), 'SLIM_TENSOR_OVERLAP', { file, tensor: 'b' })
  })

  it('names a tensor twice, the second time in escapes', async () => {
    const json = JSON.stringify(t)
    const file = writeRawSafetensors(newFile(), `{"t":${json},"\\u0074":${json}}`, 4)
    await expectSlimError(
      () => readSafetensorsHeader(file),
      'SLIM_BAD_HEADER',
      { file, tensor: 't' },
      'twice',
    )
  })

  it('has a tensor of an unknown dtype', async () => {
    const file = writeRawSafetensors(newFile(), entry({ dtype: 'Q3' }), 4)
    await expectSlimError(() => readSafetensorsHeader(file), 'SLIM_TENSOR_DTYPE', { file, tensor: 't' }, 'Q3')
  })

  it('is cut inside a tensor', async () => {
    const file = writeRawSafetensors(newFile(), { a: t, b: f32([4], 4, 20) }, 19)
    await expectSlimError(
      () => readSafetensorsHeader(file),
      'SLIM_FILE_TRUNCATED',
      { file, tensor: 'b' },
      'cut short',
    )
  })
})

describe('writeSafetensors', () => {
  const entries: SafetensorsEntry[] = [
    { name: 'z', dtype: 'F16', shape: [3], bytes: () => new Uint8Array([1, 2, 3, 4, 5, 6]) },
    { name: 'a', dtype: 'U8', shape: [2, 1], bytes: async () => new Uint8Array([7, 8]) },
    {
      name: 'chunks',
      dtype: 'I32',
      shape: [2],
      async *bytes() {
        yield new Uint8Array([1, 0, 0])
        yield new Uint8Array([0, 2, 0, 0, 0])
      },
    },
    { name: 'empty', dtype: 'F32', shape: [0], bytes: () => new Uint8Array(0) },
  ]

  it('writes what the reader reads, in the given order, the same bytes every time', async () => {
    const [a, b] = [newFile(), newFile()]
    await writeSafetensors(a, entries, { format: 'pt', made: 'here' })
    await writeSafetensors(b, entries, { format: 'pt', made: 'here' })
    expect(readFileSync(a).equals(readFileSync(b))).toBe(true)
    const { tensors, metadata } = await readSafetensorsHeader(a)
    expect([...tensors.keys()]).toEqual(['z', 'a', 'empty', 'chunks'].sort((x, y) => place(x) - place(y)))
    expect(metadata).toEqual({ format: 'pt', made: 'here' })
    const start = tensors.get('z')!.byteOffset
    expect(start % 8).toBe(0)
    expect([...readFileSync(a).subarray(start)]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 1, 0, 0, 0, 2, 0, 0, 0])
    expect(tensors.get('a')).toMatchObject({ dtype: 'U8', shape: [2, 1], byteLength: 2 })
    function place(name: string) {
      return tensors.get(name)!.byteOffset
    }
  })

  it('asks for a tensor only when the one before it is written', async () => {
    const order: string[] = []
    let alive = 0
    const watched = entries.map((e) => ({
      ...e,
      async *bytes() {
        expect(++alive).toBe(1)
        order.push(e.name)
        const given = e.bytes()
        for await (const chunk of Symbol.asyncIterator in given ? given : [await given]) yield chunk
        --alive
      },
    }))
    await writeSafetensors(newFile(), watched)
    expect(order).toEqual(['z', 'a', 'chunks', 'empty'])
  })

  for (const [what, bytes] of [
    ['few', 5],
    ['many', 7],
  ] as const)
    it(`fails, and leaves no file, when a tensor comes with too ${what} bytes`, async () => {
      const file = newFile()
      const wrong = [{ ...entries[0]!, bytes: () => new Uint8Array(bytes) }, entries[1]!]
      await expectSlimError(() => writeSafetensors(file, wrong), 'SLIM_TENSOR_SHAPE', { file, tensor: 'z' })
      await expectSlimError(() => readSafetensorsHeader(file), 'SLIM_FILE_NOT_FOUND', { file })
    })

  it('refuses two tensors of one name, and unknown dtypes', async () => {
    const file = newFile()
    await expectSlimError(
      () => writeSafetensors(file, [entries[0]!, entries[0]!]),
      'SLIM_INVALID_ARGUMENT',
      { parameter: 'entries' },
      'z',
    )
    await expectSlimError(
      () => writeSafetensors(file, [{ ...entries[0]!, dtype: 'Q4_1' }]),
      'SLIM_INVALID_ARGUMENT',
      { parameter: 'entries["z"]' },
    )
  })
})
