/** What every subcommand shares: --json, Ctrl-C, exit codes, and options that are numbers. */
import { type Command, InvalidArgumentError, Option } from 'commander'
import type { LoadOptions } from '../runtime/model.js'
import { FlagNames } from './flags.js'
import { Output } from './output.js'

export interface Context {
  output: Output
  /** Aborted by the first Ctrl-C; a second one ends the process at once. */
  signal: AbortSignal
}

/** Runs a subcommand's work: SIGINT and SIGTERM abort it, errors are printed and become the exit code. */
export async function act(command: Command, work: (context: Context) => Promise<void>): Promise<void> {
  const output = new Output(command.opts().json ?? false, new FlagNames(command))
  const controller = new AbortController()
  const interrupt = () => controller.abort()
  process.once('SIGINT', interrupt)
  process.once('SIGTERM', interrupt)
  try {
    await work({ output, signal: controller.signal })
  } catch (error) {
    process.exitCode = output.failure(error)
  } finally {
    process.off('SIGINT', interrupt)
    process.off('SIGTERM', interrupt)
  }
}

export function wholeNumber(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('Expected a whole number.')
  return Number(text)
}

export function decimal(text: string): number {
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('Expected a number.')
  return value
}

/** The process's largest resident memory. */
export function peakMemoryBytes(): number {
  return process.resourceUsage().maxRSS * 1024
}

export const kvCacheOption = () =>
  new Option('--kv-cache <type>', 'how keys and values are kept')
    .choices(['f16', 'int8', 'f32'])
    .default('f16')

export const deviceOption = () =>
  new Option('--device <name>', 'device').choices(['auto', 'cpu', 'cuda']).default('auto')

export const activationsOption = () =>
  new Option(
    '--activations <type>',
    "inputs of packed layers: rounded to int8 (default), or exact and slower; not on device 'cuda'",
  ).choices(['int8', 'float32'])

/** What the flags say of loading a model. */
export function loading({ device, activations, threads }: LoadOptions, signal: AbortSignal): LoadOptions {
  return { device, activations, threads, signal }
}
