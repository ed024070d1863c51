import os from 'node:os'
import { Command } from 'commander'
import { SlimError } from '../errors.js'
import { addon } from '../native/addon.js'
import { packageVersion } from '../version.js'
import { act, type Context } from './action.js'
import { bytes } from './output.js'

export function doctorCommand(): Command {
  return new Command('doctor')
    .description('what this machine has, and whether slimllm can use it')
    .option('--json', 'NDJSON on stdout')
    .action((_flags: object, command: Command) => act(command, runDoctor))
}

async function runDoctor({ output }: Context): Promise<void> {
  const missing = addonError()
  const facts = {
    slimllm: packageVersion(),
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    processor: os.cpus()[0]?.model.trim() ?? 'unknown',
    cores: os.availableParallelism(),
    memoryBytes: os.totalmem(),
    instructionSet: missing ? null : addon().instructionSet(),
    addonError: missing && firstLine(missing.cause),
    cuda: 'this version has no CUDA backend; device "auto" is the CPU',
  }
  output.result(facts, [
    `slimllm ${facts.slimllm}, Node ${facts.node}, ${facts.platform}`,
    `processor: ${facts.processor}, ${facts.cores} cores, ${bytes(facts.memoryBytes)}`,
    `native addon: ${missing ? `missing: ${firstLine(missing.cause)}` : `loaded, ${facts.instructionSet} kernels`}`,
    `CUDA: ${facts.cuda}`,
  ])
  if (missing) throw missing
}

/** The loader's words: an addon may be there and not fit this system. */
const firstLine = (error: unknown) => String((error as Error)?.message ?? error).split('\n')[0]!

function addonError(): SlimError | null {
  try {
    addon()
    return null
  } catch (error) {
    if (!(error instanceof SlimError)) throw error
    return error
  }
}
