import os from 'node:os'
import { Command } from 'commander'
import { addon } from '../native/addon.js'
import { packageVersion } from '../version.js'
import { act, type Context } from './action.js'
import { bytes } from './output.js'

export function doctorCommand(): Command {
  return new Command('doctor')
    .description('what this machine has, and whether slimllm can use it')
    .option('--json', 'NDJSON on stdout')
    .action((flags: { json?: boolean }) => act(flags.json, runDoctor))
}

async function runDoctor({ output }: Context): Promise<void> {
  const facts = {
    slimllm: packageVersion(),
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    processor: os.cpus()[0]?.model.trim() ?? 'unknown',
    cores: os.availableParallelism(),
    memoryBytes: os.totalmem(),
    instructionSet: addon().instructionSet(),
    cuda: 'this version has no CUDA backend; device "auto" is the CPU',
  }
  output.result(facts, [
    `slimllm ${facts.slimllm}, Node ${facts.node}, ${facts.platform}`,
    `processor: ${facts.processor}, ${facts.cores} cores, ${bytes(facts.memoryBytes)}`,
    `native addon: loaded, ${facts.instructionSet} kernels`,
    `CUDA: ${facts.cuda}`,
  ])
}
