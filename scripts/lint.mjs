// Formatters and linters of both languages: biome and tsc for TypeScript, clang-format and cppcheck for C++.
// With --fix the formatters rewrite the files. cppcheck comes from the system's packages; CI must have it.
import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import path from 'node:path'

const fix = process.argv.includes('--fix')
const npmBin = (command) => path.join('node_modules', '.bin', command)
const run = (command, args) => spawnSync(command, args, { stdio: 'inherit' })
const sources = ['native', 'test/native', 'test/neon', 'test/cuda-emulator']
  .flatMap((folder) => readdirSync(folder, { recursive: true }).map((name) => path.join(folder, name)))
  .filter((name) => /\.(cc|h|inl|cu|cuh)$/.test(name))

function cppcheck() {
  const result = run('cppcheck', [
    '--std=c++20',
    '--language=c++',
    '--enable=warning,performance,portability',
    '--inline-suppr',
    '--suppress=missingIncludeSystem',
    '--error-exitcode=1',
    '--quiet',
    '-I',
    'native',
    'native',
  ])
  if (result.error?.code !== 'ENOENT' || process.env.CI) return result
  console.warn('SKIPPED: cppcheck is not installed (Debian: apt-get install cppcheck)')
  return { status: 0 }
}

const results = [
  run(npmBin('biome'), fix ? ['check', '--write'] : ['check', '--error-on-warnings']),
  run(npmBin('tsc'), ['--noEmit']),
  run(npmBin('clang-format'), fix ? ['-i', ...sources] : ['--dry-run', '--Werror', ...sources]),
  cppcheck(),
]
process.exit(results.every((result) => result.status === 0) ? 0 : 1)
