/** Where the native code runs, as its callers choose it: device and threads. */
import os from 'node:os'
import { SlimError } from '../errors.js'

/** 'auto' and 'cpu' run here; there is no CUDA backend yet, and asking for one is an error, not a fallback. */
export type Device = 'auto' | 'cpu' | 'cuda'

const DEVICES: readonly Device[] = ['auto', 'cpu', 'cuda']

export function checkDevice(device: string | undefined): void {
  if (device !== undefined && !(DEVICES as readonly string[]).includes(device))
    throw SlimError.invalidArgument('device', `one of ${DEVICES.join(', ')}`, device)
  if (device === 'cuda')
    throw new SlimError('SLIM_DEVICE_UNAVAILABLE', 'This version has no CUDA backend', {
      parameter: 'device',
      remedy: "Choose device 'cpu' or 'auto'",
    })
}

/** The number of threads to use: all cores by default. */
export function checkThreads(threads: number | undefined): number {
  if (threads === undefined) return os.availableParallelism()
  if (!Number.isInteger(threads) || threads < 1 || threads > 1024)
    throw SlimError.invalidArgument('threads', 'a whole number from 1 to 1024', threads)
  return threads
}
