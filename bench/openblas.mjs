// OpenBLAS as a comparator of this process; it chooses its kernels itself: OPENBLAS_* variables are removed.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const here = path.dirname(fileURLToPath(import.meta.url))
const require = createRequire(import.meta.url)

/** Builds and loads the comparator, { kernels, file, run }; a string says why there is none. */
export function openBlas(core) {
  for (const name of Object.keys(process.env)) if (name.startsWith('OPENBLAS_')) delete process.env[name]
  if (core) process.env.OPENBLAS_CORETYPE = core
  const target = path.join(here, 'build', 'openblas.node')
  const headers = path.join(path.dirname(path.dirname(process.execPath)), 'include', 'node')
  if (!existsSync(path.join(headers, 'node_api.h')))
    return `no comparator: Node's headers are not in ${headers}`
  mkdirSync(path.dirname(target), { recursive: true })
  const source = path.join(here, 'openblas.c')
  const args = ['-O2', '-Wall', '-shared', '-fPIC', `-I${headers}`, source, '-o', target, '-ldl']
  const { status, stderr, error } = spawnSync(process.env.CC ?? 'cc', args, { encoding: 'utf8' })
  if (status !== 0) return `no comparator: ${error?.message ?? stderr}`
  const module = require(target)
  const folders = ['x86_64', 'aarch64'].map((arch) => `/usr/lib/${arch}-linux-gnu/openblas-pthread`)
  for (const file of [...folders.map((folder) => `${folder}/libopenblas.so.0`), 'libopenblas.so.0']) {
    const kernels = module.open(file)
    if (kernels) return { kernels, file, run: module.run }
  }
  return 'no comparator: OpenBLAS is missing (Debian: apt-get install libopenblas0-pthread)'
}

// OpenBLAS workers look for more work, on a core that we would use, for a while before they sleep.
export const pauseForOpenBlas = () => pause(150)

export const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1]
