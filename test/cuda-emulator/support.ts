// Compiles kernels with nvcc and runs cases on the emulated driver, without the addon.
import { execFile } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { buildEmulator, caseRunner, emulatorLibrary } from '../../scripts/build-emulator.mjs'

const run = promisify(execFile)

function findNvcc(): string | undefined {
  const folders = (process.env.PATH ?? '').split(path.delimiter).concat('/usr/local/cuda/bin')
  return folders.map((folder) => path.join(folder, 'nvcc')).find((file) => existsSync(file))
}

/** The emulator is built by the first test that needs it. */
export const buildTimeout = 900_000

export const nvcc = findNvcc()
export const withoutNvcc = nvcc === undefined
if (withoutNvcc) console.warn('SKIPPED: kernels compiled from CUDA C++, for nvcc is not installed')

export interface Outcome {
  command: string
  error: number
  name: string
  text: string
  value?: number
  device?: string
  capability?: number
}

/** One launch, as the emulator reports it; warp-level counts. */
export interface LaunchReport {
  kernel: string
  /** Launched with a graph. */
  graph: boolean
  grid: number[]
  block: number[]
  instructions: number
  instructionsByClass: Record<string, number>
  sharedRequests: number
  sharedWavefronts: number
  minimumWavefronts: number
  globalRequests: number
  sectors: number
  minimumSectors: number
  bytesRead: number
  bytesWritten: number
  barriers: number
}

export interface Finding {
  kind: string
  code: number
  text: string
}

/** A temporary folder with inputs, outputs and modules of cases; every case is a process of its own. */
export class Bench {
  readonly folder = mkdtempSync(path.join(os.tmpdir(), 'slimllm-emulator-'))
  #count = 0

  static async open(): Promise<Bench> {
    await buildEmulator()
    return new Bench()
  }

  close(): void {
    rmSync(this.folder, { recursive: true, force: true })
  }

  path(name: string): string {
    return path.join(this.folder, name)
  }

  file(content: string | NodeJS.ArrayBufferView, extension = 'bin'): string {
    const file = this.path(`${this.#count++}.${extension}`)
    writeFileSync(
      file,
      typeof content === 'string'
        ? content
        : Buffer.from(content.buffer, content.byteOffset, content.byteLength),
    )
    return file
  }

  /** Compiles CUDA C++ to PTX for sm_80, or to a fatbin with the options given. */
  async compile(source: string, options: string[] = ['-arch=compute_80', '-ptx']): Promise<string> {
    const output = this.path(`${this.#count++}.module`)
    await run(nvcc ?? 'nvcc', ['-std=c++17', '-O3', ...options, source, '-o', output])
    return output
  }

  async run(lines: string[], environment: Record<string, string> = {}) {
    const findingsFile = this.path(`${this.#count++}.findings`)
    const reportFile = this.path(`${this.#count++}.report`)
    const child = run(caseRunner, [emulatorLibrary], {
      env: {
        ...process.env,
        SLIM_EMULATOR_FINDINGS: findingsFile,
        SLIM_EMULATOR_REPORT: reportFile,
        ...environment,
      },
      maxBuffer: 1 << 26,
    })
    child.child.stdin?.end(`${lines.join('\n')}\n`)
    const { stdout, stderr } = await child
    const parse = <T>(text: string): T[] =>
      text
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => JSON.parse(line) as T)
    const read = (file: string) => (existsSync(file) ? readFileSync(file, 'utf8') : '')
    const outcomes = parse<Outcome>(stdout)
    return {
      outcomes,
      /** The last command's outcome. */
      last: outcomes[outcomes.length - 1] as Outcome,
      findings: parse<Finding>(read(findingsFile)),
      reports: parse<LaunchReport>(read(reportFile)),
      stderr,
    }
  }
}

/** Lines that allocate and fill a buffer. */
export function buffer(bench: Bench, name: string, content: NodeJS.ArrayBufferView): string[] {
  return [`allocate ${name} ${content.byteLength}`, `write ${name} ${bench.file(content)}`]
}
