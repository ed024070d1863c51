// Comparators written in C, compiled into bench/build when a benchmark starts, and loaded as Node addons.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

export const here = path.dirname(fileURLToPath(import.meta.url))

/** The standard output of a command; what went wrong is the error. */
export function run(command, args, options = {}) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
    ...options,
  })
  if (status !== 0)
    throw new Error(error?.message ?? (stderr.trim().split('\n').at(-1) || `${command} failed`))
  return stdout
}

/** `flags`: of the compiler, after the source's name. */
export function compileModule(source, flags = []) {
  const headers = path.join(path.dirname(path.dirname(process.execPath)), 'include', 'node')
  if (!existsSync(path.join(headers, 'node_api.h')))
    throw new Error(`${source} needs Node's headers, which are not in ${headers}`)
  const target = path.join(here, 'build', `${path.basename(source, '.c')}.node`)
  mkdirSync(path.dirname(target), { recursive: true })
  const fixed = ['-O2', '-Wall', '-shared', '-fPIC', `-I${headers}`, path.join(here, source), '-o', target]
  run(process.env.CC ?? 'cc', [...fixed, ...flags])
  return createRequire(import.meta.url)(target)
}
