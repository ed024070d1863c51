/** Where the native code runs, as its callers choose it: device and threads. */
import os from 'node:os'
import { SlimError } from '../errors.js'
import { addon } from './addon.js'

/** 'auto' and 'cpu' run here; 'cuda' is the first GPU. */
export type Device = 'auto' | 'cpu' | 'cuda'

const DEVICES: readonly Device[] = ['auto', 'cpu', 'cuda']

/** Why device 'auto' is the CPU. */
export const WHY_CPU = 'no GPU has run the CUDA kernels of this version yet, only an emulated one'

function checkDevice(device: string | undefined): void {
  if (device !== undefined && !(DEVICES as readonly string[]).includes(device))
    throw SlimError.invalidArgument('device', `one of ${DEVICES.join(', ')}`, device)
}

/** Whether a model is to lie on the GPU, which is known to be there then. */
export function isCuda(device: Device | undefined): boolean {
  checkDevice(device)
  if (device !== 'cuda') return false
  const reason = missingForCuda()
  if (reason) throw reason
  return true
}

/** What this machine lacks for device 'cuda': driver, device, or kernels; null when nothing. */
export function missingForCuda(): SlimError | null {
  const { driver, driverError, devices, kernelsError } = addon().cudaDriver()
  if (driverError) return driverError
  if (devices.length === 0)
    return new SlimError('SLIM_DEVICE_UNAVAILABLE', `The CUDA driver (${driver}) finds no device`, {
      parameter: 'device',
      remedy: "Choose device 'cpu' or 'auto'",
    })
  return kernelsError
}

/** The number of threads to use: all cores by default. */
export function checkThreads(threads: number | undefined): number {
  if (threads === undefined) return os.availableParallelism()
  if (!Number.isInteger(threads) || threads < 1 || threads > 1024)
    throw SlimError.invalidArgument('threads', 'a whole number from 1 to 1024', threads)
  return threads
}
