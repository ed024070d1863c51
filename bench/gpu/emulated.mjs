// The emulated driver in place of the machine's own, as `npm run build:cuda` builds it.
import path from 'node:path'
import { here } from '../native_module.mjs'

/** Before the first device is opened. */
export function useEmulatedDriver() {
  process.env.SLIMLLM_CUDA_DRIVER = path.join(here, '..', 'build', 'cuda-emulator', 'libcuda-emulator.so')
}

/** Of facts.devices[0]; nothing can be timed on it. */
export const isEmulated = ({ name }) => name.includes('emulated')
