#!/usr/bin/env node
/** slimllm: parses the command line, runs a subcommand, sets the exit code. */
import { CommanderError } from 'commander'
import { EXIT, Output } from './output.js'
import { slimllmProgram } from './program.js'

// A reader that goes away (`slimllm … | head`) is no error, and no reason to give up work that leaves a result.
for (const stream of [process.stdout, process.stderr])
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
  })

try {
  await slimllmProgram().parseAsync()
} catch (error) {
  if (!(error instanceof CommanderError)) throw error
  if (error.exitCode !== 0 && process.argv.includes('--json'))
    new Output(true).event('error', { code: 'SLIM_INVALID_ARGUMENT', message: error.message })
  process.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage
}
