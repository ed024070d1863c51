#!/usr/bin/env node
/** The command line: one file a subcommand; this one parses and dispatches. */
import { Command, CommanderError } from 'commander'
import { packageVersion } from '../version.js'
import { demoCommand } from './demo.js'
import { doctorCommand } from './doctor.js'
import { evalCommand } from './eval.js'
import { generateCommand } from './generate.js'
import { inspectCommand } from './inspect.js'
import { EXIT, Output } from './output.js'
import { quantizeCommand } from './quantize.js'

const program = new Command('slimllm')
  .description('Makes and runs 1- to 4-bit large language models')
  .version(packageVersion())
  .exitOverride()
  .showHelpAfterError('(slimllm --help lists the commands and their options)')
for (const add of [
  quantizeCommand,
  evalCommand,
  generateCommand,
  inspectCommand,
  doctorCommand,
  demoCommand,
]) {
  const command = add()
  command.exitOverride()
  program.addCommand(command)
}

// A reader that goes away (`slimllm … | head`) is no error, and no reason to give up work that leaves a result.
for (const stream of [process.stdout, process.stderr])
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
  })

try {
  await program.parseAsync()
} catch (error) {
  if (!(error instanceof CommanderError)) throw error
  if (error.exitCode !== 0 && process.argv.includes('--json'))
    new Output(true).event('error', { code: 'SLIM_INVALID_ARGUMENT', message: error.message })
  process.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage
}
