import {
  closeSync,
  cpSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js'
import { type SafetensorsEntry, writeSafetensors } from '../../lib/checkpoint/safetensors_writer.js'
import { requireFinite } from '../../lib/checkpoint/tensor_info.js'
import { addon } from '../../lib/native/addon.js'
import { expectSlimError } from '../support/expect_error.js'
import { demo } from '../support/models.js'
import { writeRawSafetensors } from '../support/safetensors.js'
import { temporaryFolder } from '../support/temporary.js'

const folder = temporaryFolder()
let folders = 0

function newFolder(files: Record<string, string> = { 'config.json': '{"model_type":"llama"}' }): string {
  const directory = path.join(folder, String(++folders))
  mkdirSync(directory)
  for (const [name, text] of Object.entries(files)) writeFileSync(path.join(directory, name), text)
  return directory
}

const floats = (name: string, ...values: number[]): SafetensorsEntry => ({
  name,
  dtype: 'F32',
  shape: [values.length],
  bytes: () => new Uint8Array(Float32Array.from(values).buffer),
})

async function shardedFolder(): Promise<string> {
  const directory = newFolder()
  await writeSafetensors(path.join(directory, 'one.safetensors'), [floats('a', 1, 2), floats('b', 3)])
  await writeSafetensors(path.join(directory, 'two.safetensors'), [floats('c', 4), floats('unlisted', 5)])
  writeIndex(directory, { a: 'one.safetensors', b: 'one.safetensors', c: 'two.safetensors' })
  return directory
}

const indexOf = (directory: string) => path.join(directory, 'model.safetensors.index.json')
const writeIndex = (directory: string, weightMap: unknown) =>
  writeFileSync(indexOf(directory), JSON.stringify({ metadata: {}, weight_map: weightMap }))

describe('a good folder', () => {
  it('is the demo model', async () => {
    using checkpoint = await openCheckpoint(demo)
    expect(checkpoint.format).toBe('huggingface')
    expect(checkpoint.config).toMatchObject({ model_type: 'llama', hidden_size: 256, num_hidden_layers: 6 })
    const embedding = await checkpoint.requireTensor('model.embed_tokens.weight', [2048, 256])
    expect(embedding.dtype).toBe('F16')
    await requireFinite(embedding, 'model.embed_tokens.weight', demo, 2)
    const info = checkpoint.tensors.get('model.embed_tokens.weight')!
    const raw = readFileSync(info.file).subarray(info.byteOffset, info.byteOffset + info.byteLength)
    expect(raw.equals(embedding.toBytes())).toBe(true)
    const chunks: Uint8Array[] = []
    for await (const chunk of checkpoint.tensorBytes(info.name)) chunks.push(chunk)
    expect(raw.equals(Buffer.concat(chunks))).toBe(true)
    const auxiliary = await checkpoint.auxiliary()
    expect(auxiliary.map(({ name }) => name)).toEqual(['tokenizer.json', 'tokenizer_config.json'])
    expect(readFileSync(path.join(demo, 'tokenizer.json')).equals(auxiliary[0]!.bytes)).toBe(true)
    expect(checkpoint.tokenizer!.config).toMatchObject({ eos_token: '</s>' })
  })

  it('has shards', async () => {
    using checkpoint = await openCheckpoint(await shardedFolder())
    expect([...checkpoint.tensors.keys()]).toEqual(['a', 'b', 'c'])
    const values = async (name: string) => [...(await checkpoint.tensor(name)).toFloat32Array()]
    expect([await values('a'), await values('b'), await values('c')]).toEqual([[1, 2], [3], [4]])
    expect(checkpoint.tokenizer).toBeNull()
    expect(await checkpoint.auxiliary()).toEqual([])
  })

  it('has a generation configuration', async () => {
    const directory = newFolder({ 'config.json': '{}', 'generation_config.json': '{"eos_token_id":[1,2]}' })
    await writeSafetensors(path.join(directory, 'model.safetensors'), [floats('a', 1)])
    using checkpoint = await openCheckpoint(directory)
    expect(checkpoint.generationConfig).toEqual({ eos_token_id: [1, 2] })
    expect((await checkpoint.auxiliary()).map(({ name }) => name)).toEqual(['generation_config.json'])
  })

  it('has a hash that changes with configuration and weights only', async () => {
    const copy = path.join(folder, 'hashed')
    cpSync(demo, copy, { recursive: true })
    const hash = async () => {
      using checkpoint = await openCheckpoint(copy)
      return checkpoint.sourceHash()
    }
    const first = await hash()
    expect(first).toMatch(/^[0-9a-f]{64}$/)
    writeFileSync(path.join(copy, 'notes.txt'), 'x')
    expect(await hash()).toBe(first)
    const weights = path.join(copy, 'model.safetensors')
    const bytes = readFileSync(weights)
    bytes[bytes.length - 1]! ^= 1
    writeFileSync(weights, bytes)
    const second = await hash()
    expect(second).not.toBe(first)
    writeFileSync(path.join(copy, 'config.json'), `${readFileSync(path.join(copy, 'config.json'))} `)
    expect(await hash()).not.toBe(second)
  })

  it('hashes again after an aborted hash', async () => {
    using checkpoint = await openCheckpoint(demo)
    await expectSlimError(() => checkpoint.sourceHash(AbortSignal.abort()), 'SLIM_ABORTED')
    expect(await checkpoint.sourceHash()).toMatch(/^[0-9a-f]{64}$/)
  })

  it('has tensors that are not aligned to their elements', async () => {
    const directory = newFolder()
    const tensors = {
      pad: { dtype: 'U8', shape: [1], data_offsets: [0, 1] },
      x: { dtype: 'F32', shape: [2], data_offsets: [1, 9] },
    }
    const data = Buffer.concat([Buffer.from([9]), Buffer.from(Float32Array.of(1.5, -2.5).buffer)])
    const file = path.join(directory, 'model.safetensors')
    for (const spaces of ['', ' ', '  ', '   ']) {
      writeRawSafetensors(file, JSON.stringify(tensors) + spaces, data)
      using checkpoint = await openCheckpoint(directory)
      expect([...(await checkpoint.tensor('x')).toFloat32Array()]).toEqual([1.5, -2.5])
    }
  })

  it('has a file over 4 GiB', async () => {
    const far = 5 * 2 ** 30
    const directory = newFolder()
    const file = path.join(directory, 'model.safetensors')
    writeRawSafetensors(file, {
      low: { dtype: 'U8', shape: [far], data_offsets: [0, far] },
      high: { dtype: 'F32', shape: [2], data_offsets: [far, far + 8] },
    })
    const start = readFileSync(file).length
    const descriptor = openSync(file, 'r+')
    // Sparse: only the last block takes room.
    ftruncateSync(descriptor, start + far + 8)
    writeSync(descriptor, new Uint8Array(Float32Array.of(1.5, -2.5).buffer), 0, 8, start + far)
    closeSync(descriptor)
    using checkpoint = await openCheckpoint(directory)
    expect(checkpoint.tensors.get('high')!.byteOffset).toBe(start + far)
    expect([...(await checkpoint.tensor('high')).toFloat32Array()]).toEqual([1.5, -2.5])
    const low = await checkpoint.tensor('low')
    expect(low.byteLength).toBe(far)
    const chunks: Uint8Array[] = []
    for await (const chunk of checkpoint.tensorBytes('high')) chunks.push(chunk)
    expect([...Buffer.concat(chunks)]).toEqual([...new Uint8Array(Float32Array.of(1.5, -2.5).buffer)])
  })

  it('keeps a tensor usable after it is disposed, and gives no more', async () => {
    const directory = await shardedFolder()
    const checkpoint = await openCheckpoint(directory)
    const a = await checkpoint.tensor('a')
    checkpoint.dispose()
    checkpoint.dispose()
    expect([...a.toFloat32Array()]).toEqual([1, 2])
    await expectSlimError(() => checkpoint.tensor('a'), 'SLIM_DISPOSED')
  })
})

describe('a bad path', () => {
  it('does not exist', async () => {
    const file = path.join(folder, 'nothing')
    await expectSlimError(() => openCheckpoint(file), 'SLIM_FILE_NOT_FOUND', { file }, 'config.json', '.gguf')
  })

  it('is a file of another kind', async () => {
    const file = path.join(folder, 'model.safetensors')
    writeFileSync(file, 'x')
    await expectSlimError(() => openCheckpoint(file), 'SLIM_UNSUPPORTED_FORMAT', { file }, '.gguf', 'folder')
  })

  it('is empty or no string', async () => {
    await expectSlimError(() => openCheckpoint(''), 'SLIM_INVALID_ARGUMENT', { parameter: 'path' })
    await expectSlimError(() => openCheckpoint(3 as never), 'SLIM_INVALID_ARGUMENT', { parameter: 'path' })
  })

  it('is a folder without config.json', async () => {
    const directory = newFolder({})
    const file = path.join(directory, 'config.json')
    const error = await expectSlimError(
      () => openCheckpoint(directory),
      'SLIM_FILE_NOT_FOUND',
      {},
      directory,
      'config.json',
    )
    expect(error.file).toBe(file)
  })

  it('is a folder with a broken config.json', async () => {
    const directory = newFolder({ 'config.json': '{"model_type": "llama"' })
    const file = path.join(directory, 'config.json')
    await expectSlimError(() => openCheckpoint(directory), 'SLIM_BAD_CONFIG', { file })
  })

  it('is a folder without weights', async () => {
    await expectSlimError(
      () => openCheckpoint(newFolder()),
      'SLIM_FILE_NOT_FOUND',
      {},
      'model.safetensors',
      'model.safetensors.index.json',
    )
  })

  it('is a folder with pickled weights only', async () => {
    const directory = newFolder({ 'config.json': '{}', 'pytorch_model.bin': 'x' })
    await expectSlimError(
      () => openCheckpoint(directory),
      'SLIM_UNSUPPORTED_FORMAT',
      {},
      'pytorch_model.bin',
      'safetensors',
    )
  })

  it('is a folder with a broken tokenizer.json', async () => {
    const directory = await shardedFolder()
    const file = path.join(directory, 'tokenizer.json')
    writeFileSync(file, '{')
    using checkpoint = await openCheckpoint(directory)
    await expectSlimError(() => checkpoint.tokenizer, 'SLIM_BAD_CONFIG', { file })
  })
})

describe('bad shards', () => {
  it('are missing', async () => {
    const directory = await shardedFolder()
    const file = path.join(directory, 'two.safetensors')
    rmSync(file)
    await expectSlimError(() => openCheckpoint(directory), 'SLIM_FILE_NOT_FOUND', { file, tensor: 'c' })
  })

  it('are cut short', async () => {
    const directory = await shardedFolder()
    const file = path.join(directory, 'two.safetensors')
    truncateSync(file, readFileSync(file).length - 1)
    await expectSlimError(() => openCheckpoint(directory), 'SLIM_FILE_TRUNCATED', {
      file,
      tensor: 'unlisted',
    })
  })

  it('lack a tensor that the index names', async () => {
    const directory = await shardedFolder()
    writeIndex(directory, { a: 'one.safetensors', gone: 'one.safetensors' })
    await expectSlimError(() => openCheckpoint(directory), 'SLIM_TENSOR_MISSING', {
      file: path.join(directory, 'one.safetensors'),
      tensor: 'gone',
    })
  })

  for (const [what, shard] of [
    ['reach outside the folder', '../one.safetensors'],
    ['lie at an absolute path', '/etc/passwd'],
    ['are reached through a Windows path', '..\\one.safetensors'],
    ['have no name', ''],
    ['are no string', 7],
  ] as const)
    it(what, async () => {
      const directory = await shardedFolder()
      writeIndex(directory, { a: shard })
      await expectSlimError(() => openCheckpoint(directory), 'SLIM_BAD_HEADER', {
        file: indexOf(directory),
        tensor: 'a',
      })
    })

  it('have an index without weight_map, or of broken JSON', async () => {
    const directory = await shardedFolder()
    const file = indexOf(directory)
    writeIndex(directory, undefined)
    await expectSlimError(() => openCheckpoint(directory), 'SLIM_BAD_HEADER', {
      file,
      parameter: 'weight_map',
    })
    writeFileSync(file, '{"weight_map":')
    await expectSlimError(() => openCheckpoint(directory), 'SLIM_BAD_HEADER', { file })
  })
})

describe('a bad tensor', () => {
  it('is missing', async () => {
    const directory = await shardedFolder()
    using checkpoint = await openCheckpoint(directory)
    const expected = { file: directory, tensor: 'zzz' }
    await expectSlimError(() => checkpoint.tensor('zzz'), 'SLIM_TENSOR_MISSING', expected)
    await expectSlimError(() => checkpoint.requireTensor('zzz', [1]), 'SLIM_TENSOR_MISSING', expected)
  })

  it('has another shape', async () => {
    const directory = await shardedFolder()
    using checkpoint = await openCheckpoint(directory)
    const expected = { file: path.join(directory, 'one.safetensors'), tensor: 'a' }
    for (const shape of [[3], [2, 1], []])
      await expectSlimError(() => checkpoint.requireTensor('a', shape), 'SLIM_TENSOR_SHAPE', expected, '[2]')
  })

  it('has a dtype that is no weight', async () => {
    const directory = newFolder()
    const file = path.join(directory, 'model.safetensors')
    const entry = (name: string, dtype: string, size: number) => ({
      name,
      dtype,
      shape: [1],
      bytes: () => new Uint8Array(size),
    })
    await writeSafetensors(file, [entry('ids', 'I64', 8), entry('mask', 'BOOL', 1), entry('codes', 'U8', 1)])
    using checkpoint = await openCheckpoint(directory)
    expect(checkpoint.tensors.get('ids')).toMatchObject({ dtype: 'I64', byteLength: 8 })
    await expectSlimError(() => checkpoint.tensor('ids'), 'SLIM_TENSOR_DTYPE', { file, tensor: 'ids' }, 'I64')
    await expectSlimError(
      () => checkpoint.tensor('mask'),
      'SLIM_TENSOR_DTYPE',
      { file, tensor: 'mask' },
      'BOOL',
    )
    await expectSlimError(
      () => checkpoint.requireTensor('codes', [1]),
      'SLIM_TENSOR_DTYPE',
      { file, tensor: 'codes' },
      'F32',
    )
    expect([...(await checkpoint.requireTensor('codes', [1], ['U8'])).toBytes()]).toEqual([0])
  })

  for (const [dtype, array] of [
    ['F32', Float32Array.from({ length: 12 }, (_, i) => (i === 7 ? Number.NaN : i))],
    ['F16', Uint16Array.from({ length: 12 }, (_, i) => (i === 7 ? 0xfc00 : 0x3c00))],
    ['BF16', Uint16Array.from({ length: 12 }, (_, i) => (i === 7 ? 0x7fc0 : 0x3f80))],
  ] as const)
    it(`holds a NaN or infinity in ${dtype}`, async () => {
      const tensor = addon().tensorFrom(array, dtype, [3, 4])
      await expectSlimError(
        () => requireFinite(tensor, 'w', 'model.safetensors', 2),
        'SLIM_TENSOR_NON_FINITE',
        { file: 'model.safetensors', tensor: 'w' },
        'element 7',
        '[1, 3]',
      )
    })
})
