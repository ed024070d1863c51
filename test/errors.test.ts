import { readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { SlimError } from '../lib/errors.js'
import { packageRoot } from '../lib/native/addon.js'

const read = (name: string) => readFileSync(path.join(packageRoot(), name), 'utf8')

it('docs/errors.md explains every code, and no other', () => {
  const union = ['lib/errors.ts', 'lib/warnings.ts']
    .map((file) => read(file).split('export interface')[0]!)
    .join('\n')
  const declared = [...union.matchAll(/[|=] '(SLIM_[A-Z_]+)'/g)].map(([, code]) => code)
  const explained = [...read('docs/errors.md').matchAll(/^\| `(SLIM_[A-Z_]+)`/gm)].map(([, code]) => code)
  expect(declared.length).toBeGreaterThan(20)
  expect(explained.sort()).toEqual(declared.sort())
})

describe('SlimError', () => {
  it('says what was expected, what came and what to do', () => {
    const error = SlimError.invalidArgument('bits', 'a number from 1 to 8', 'two', 'Give a number')
    expect(error.message).toBe('Expected a number from 1 to 8 for bits but received "two". Give a number')
    expect(error).toMatchObject({ code: 'SLIM_INVALID_ARGUMENT', parameter: 'bits', received: '"two"' })
  })

  it('about a file or tensor gets the names that it lacks', () => {
    const names = { file: 'a', tensor: 't' }
    const cut = new SlimError('SLIM_FILE_TRUNCATED', 'Cut')
    expect(SlimError.from(cut, { file: 'a' })).toBe(cut)
    expect(cut.file).toBe('a')
    expect(SlimError.from(cut, { file: 'b' })).toMatchObject({ file: 'a' })
    expect(SlimError.from(SlimError.invalidArgument('group_bits', '1', 9), names)).toMatchObject(names)
    const other = SlimError.from(SlimError.invalidArgument('bits', '1', 9), { file: 'a' }) as SlimError
    expect(other.file).toBeUndefined()
  })

  it('is made from errors of the file system, and of no others', () => {
    const disk = Object.assign(new Error('ENOSPC'), { code: 'ENOSPC', path: 'b' })
    expect(SlimError.from(disk)).toMatchObject({ code: 'SLIM_NO_SPACE', file: 'b', cause: disk })
    const other = new TypeError('x')
    expect(SlimError.from(other)).toBe(other)
    const ours = new SlimError('SLIM_ABORTED', 'x')
    expect(SlimError.from(ours)).toBe(ours)
  })
})
