// The pool of threads in a program of its own, plain and under the thread sanitizer.
import { execFile } from 'node:child_process'
import path from 'node:path'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'
import { packageRoot } from '../../lib/native/addon.js'
import { temporaryFolder } from '../support/temporary.js'

const run = promisify(execFile)
const folder = temporaryFolder()

it.each([
  { kind: 'plain', flags: ['-O2'], loops: 5000 },
  { kind: 'under the thread sanitizer', flags: ['-O1', '-fsanitize=thread'], loops: 500 },
])(
  'loops call every index once, whatever the threads, $kind',
  { timeout: 120_000 },
  async ({ flags, loops }) => {
    const root = packageRoot()
    const program = path.join(folder, 'thread_pool_test')
    const sources = ['test/native/thread_pool_test.cc', 'native/core/thread_pool.cc']
    const options = ['-std=c++20', '-Wall', '-Wextra', '-Werror', '-Inative', '-pthread', ...flags]
    await run('g++', [...options, ...sources, '-o', program], { cwd: root })
    const { stdout } = await run(program, [`${loops}`])
    expect(stdout).toBe(`${loops} loops\n`)
  },
)
