// Builds the emulated CUDA driver and its case runner into build/cuda-emulator. Needs g++ only: no CUDA, no addon.
// Objects are kept and made anew when their source or a header is newer.
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, renameSync, statSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)))
const sources = path.join(root, 'test', 'cuda-emulator')
const output = path.join(root, 'build', 'cuda-emulator')
export const emulatorLibrary = path.join(output, 'libcuda-emulator.so')
export const caseRunner = path.join(output, 'run_case')

// -ffp-contract=off and -frounding-math: the emulator rounds exactly where PTX says, in the modes that it says.
const flags = [
  '-std=c++20',
  '-O2',
  '-ftree-vectorize',
  '-fPIC',
  '-fvisibility=hidden',
  '-fno-strict-aliasing',
  '-ffp-contract=off',
  '-frounding-math',
  '-fno-math-errno',
  '-Wall',
  '-Wextra',
  '-Werror',
]

const modified = (file) => (existsSync(file) ? statSync(file).mtimeMs : 0)

function run(command, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'inherit', 'inherit'] })
    child.on('error', reject)
    child.on('exit', (code) =>
      code === 0 ? resolve() : reject(new Error(`${command} ${args.join(' ')} failed`)),
    )
  })
}

// Under a name of its own until it is whole: several test processes may build at once.
async function make(compiler, file, args) {
  const unfinished = `${file}.${process.pid}`
  await run(compiler, [...args, '-o', unfinished])
  renameSync(unfinished, file)
}

export async function buildEmulator({ compiler = process.env.CXX ?? 'g++' } = {}) {
  mkdirSync(output, { recursive: true })
  const names = readdirSync(sources)
  const newestHeader = Math.max(
    ...names.filter((name) => name.endsWith('.h')).map((name) => modified(path.join(sources, name))),
  )
  const objects = names
    .filter((name) => name.endsWith('.cc'))
    .map((name) => ({ source: path.join(sources, name), object: path.join(output, `${name}.o`), name }))
  const stale = objects.filter(
    ({ source, object }) => modified(object) < Math.max(modified(source), newestHeader),
  )
  const compileNext = async () => {
    for (let next = stale.pop(); next; next = stale.pop()) {
      await make(compiler, next.object, [...flags, '-c', next.source])
    }
  }
  await Promise.all(Array.from({ length: os.availableParallelism() }, compileNext))
  const linkable = objects.filter(({ name }) => name !== 'run_case.cc').map(({ object }) => object)
  const newest = Math.max(...objects.map(({ object }) => modified(object)))
  if (modified(emulatorLibrary) < newest) await make(compiler, emulatorLibrary, ['-shared', ...linkable])
  const runner = objects.find(({ name }) => name === 'run_case.cc')
  if (runner && modified(caseRunner) < newest) await make(compiler, caseRunner, [runner.object, '-ldl'])
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await buildEmulator()
