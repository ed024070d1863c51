// OpenBLAS, opened at run time, through openblas.c.
import { setTimeout as pause } from 'node:timers/promises'
import { compileModule } from './native_module.mjs'

/** Its workers look for more work, on a core that another would use, for a while before they sleep. */
const IDLE_MS = 150

export const pauseForOpenBlas = () => pause(IDLE_MS)

/**
 * { kernels, file, run }, or a string that says why there is none. OpenBLAS chooses its kernels itself: OPENBLAS_*
 * variables are removed unless `core` names some.
 */
export function openBlas(core) {
  for (const name of Object.keys(process.env)) if (name.startsWith('OPENBLAS_')) delete process.env[name]
  if (core) process.env.OPENBLAS_CORETYPE = core
  let module
  try {
    module = compileModule('openblas.c', ['-ldl'])
  } catch (error) {
    return `no OpenBLAS: ${error.message}`
  }
  const folders = ['x86_64', 'aarch64'].map((arch) => `/usr/lib/${arch}-linux-gnu/openblas-pthread`)
  for (const file of [...folders.map((folder) => `${folder}/libopenblas.so.0`), 'libopenblas.so.0']) {
    const kernels = module.open(file)
    if (kernels) return { kernels, file, run: module.run }
  }
  return 'no OpenBLAS: the library is missing (Debian: apt-get install libopenblas0-pthread)'
}
