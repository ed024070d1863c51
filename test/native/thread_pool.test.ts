// The pool of threads in a program of its own, plain and under the thread sanitizer.
import { execFile } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'
import { packageRoot } from '../../lib/native/addon.js'
import { temporaryFolder } from '../support/temporary.js'

const run = promisify(execFile)
const folder = temporaryFolder()
const root = packageRoot()

async function build(name: string, sources: string[], flags: string[]): Promise<string> {
  const program = path.join(folder, name)
  const options = ['-std=c++20', '-Wall', '-Wextra', '-Werror', '-Inative', '-pthread', ...flags]
  await run(process.env.CXX ?? 'g++', [...options, ...sources, '-o', program], { cwd: root })
  return program
}

const sanitizer = ['-O1', '-fsanitize=thread']

/** Some systems place memory where this compiler's sanitizer does not expect it. */
async function hasSanitizer(): Promise<boolean> {
  const source = path.join(folder, 'empty.cc')
  writeFileSync(source, 'int main() {}\n')
  try {
    await run(await build('empty', [source], sanitizer))
    return true
  } catch (error) {
    console.warn(`The thread sanitizer does not run here: ${(error as Error).message}`)
    return false
  }
}

it.for([
  { kind: 'plain', flags: ['-O2'], loops: 5000 },
  { kind: 'under the thread sanitizer', flags: sanitizer, loops: 500 },
])('loops call every index once, $kind', { timeout: 120_000 }, async ({ flags, loops }, { skip }) => {
  skip(flags === sanitizer && !(await hasSanitizer()), 'no thread sanitizer')
  const sources = ['test/native/thread_pool_test.cc', 'native/core/thread_pool.cc']
  const { stdout } = await run(await build('thread_pool_test', sources, flags), [`${loops}`])
  expect(stdout).toBe(`${loops} loops\n`)
})
