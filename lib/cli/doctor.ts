import os from 'node:os'
import { Command } from 'commander'
import { SlimError } from '../errors.js'
import { addon } from '../native/addon.js'
import { missingForCuda, WHY_CPU } from '../native/device.js'
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
    cuda: missing ? null : cudaFacts(),
  }
  output.result(facts, [
    `slimllm ${facts.slimllm}, Node ${facts.node}, ${facts.platform}`,
    `processor: ${facts.processor}, ${facts.cores} cores, ${bytes(facts.memoryBytes)}`,
    `native addon: ${missing ? `missing: ${firstLine(missing.cause)}` : `loaded, ${facts.instructionSet} kernels`}`,
    ...(facts.cuda ? cudaLines(facts.cuda) : []),
  ])
  if (missing) throw missing
}

function cudaFacts() {
  const { driver, version, devices, kernels } = addon().cudaDriver()
  return {
    driver,
    version,
    kernels,
    missing: missingForCuda()?.message ?? null,
    devices: devices.map((facts) => ({ ...facts, ...imageOf(facts.index) })),
    auto: `cpu: ${WHY_CPU}`,
  }
}

/** The image of the kernels that the driver loads, or why it loads none. */
function imageOf(index: number): { image: string | null; error: string | null } {
  try {
    const device = new (addon().CudaDevice)(index)
    const { image } = device
    device.dispose()
    return { image, error: null }
  } catch (error) {
    return { image: null, error: (error as Error).message }
  }
}

function cudaLines(cuda: ReturnType<typeof cudaFacts>): string[] {
  const { driver, version, missing, devices, auto } = cuda
  return [
    driver === null ? `CUDA: ${missing}` : `CUDA: driver ${version} (${driver})`,
    ...devices.map(
      ({ index, name, computeCapability, memoryBytes, image, error }) =>
        `device ${index}: ${name}, compute capability ${computeCapability}, ${bytes(memoryBytes)}, ${
          image ? `kernels: ${image}` : error
        }`,
    ),
    ...(driver !== null && missing !== null && !devices.some(({ error }) => error)
      ? [`CUDA: ${missing}`]
      : []),
    `device 'auto': ${auto}`,
  ]
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
