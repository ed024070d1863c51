// llama.c, compiled, and the numbers of llama.cpp's file types.
import path from 'node:path'
import { here, run } from './native_module.mjs'
import { nodeLlamaCpp } from './node_llama_cpp.mjs'

/** llama_ftype numbers (llama.h): files below five bits, by name. */
export const TYPES = {
  Q4_0: 2,
  Q2_K: 10,
  Q3_K_S: 11,
  Q3_K_M: 12,
  Q3_K_L: 13,
  Q4_K_S: 14,
  Q4_K_M: 15,
  IQ2_XXS: 19,
  IQ2_XS: 20,
  Q2_K_S: 21,
  IQ3_XS: 22,
  IQ3_XXS: 23,
  IQ1_S: 24,
  IQ4_NL: 25,
  IQ3_S: 26,
  IQ3_M: 27,
  IQ2_S: 28,
  IQ2_M: 29,
  IQ4_XS: 30,
  IQ1_M: 31,
  TQ2_0: 37,
  Q2_0: 41,
}
export const F16 = 1

/** `call` runs one of the program's commands, `quantize` the one of that name with the name of a type. */
export function llamaProgram() {
  const build = path.join(here, 'build')
  const llama = nodeLlamaCpp(path.join(build, 'llama'))
  const program = path.join(build, 'llama_program')
  const source = path.join(here, 'llama.c')
  run(process.env.CC ?? 'cc', ['-O2', '-Wall', ...llama.compile, source, '-o', program, ...llama.link])
  const env = { ...process.env, SLIM_LLAMA_BACKENDS: llama.libraries }
  const call = (...args) => JSON.parse(run(program, args.map(String), { env }))
  const quantize = (from, to, type, threads, importance = []) =>
    call('quantize', from, to, TYPES[type], threads, ...importance)
  return { ...llama, call, quantize }
}
