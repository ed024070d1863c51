/** The command line as commander has it: every subcommand with its flags. */
import { Command } from 'commander'
import { packageVersion } from '../version.js'
import { benchCommand } from './bench.js'
import { demoCommand } from './demo.js'
import { doctorCommand } from './doctor.js'
import { evalCommand } from './eval.js'
import { generateCommand } from './generate.js'
import { inspectCommand } from './inspect.js'
import { quantizeCommand } from './quantize.js'

export function slimllmProgram(): Command {
  const program = new Command('slimllm')
    .description('Makes and runs 1- to 4-bit large language models')
    .version(packageVersion())
    .exitOverride()
    .showHelpAfterError('(slimllm --help lists the commands and their options)')
  for (const add of [
    quantizeCommand,
    evalCommand,
    generateCommand,
    benchCommand,
    inspectCommand,
    doctorCommand,
    demoCommand,
  ]) {
    const command = add()
    command.exitOverride()
    program.addCommand(command)
  }
  return program
}
