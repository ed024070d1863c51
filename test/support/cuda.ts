/** The CUDA backend on the emulated driver, as `npm run build:cuda` builds it; of test/gpu on the machine's GPU. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import {
  addon,
  type NativeCudaDevice,
  type NativeDecoderModel,
  packageRoot,
  run,
} from '../../lib/native/addon.js'
import type { LaunchReport } from '../cuda-emulator/support.js'
import type { LoadedDecoder } from './decoder.js'

export type { LaunchReport }

export const emulatorLibrary = path.join(packageRoot(), 'build', 'cuda-emulator', 'libcuda-emulator.so')
export const kernelsFile = path.join(packageRoot(), 'build', 'Release', 'kernels.fatbin')

/** Set by test/gpu: the machine's own driver is used, which counts nothing. */
export const onGpu = process.env.SLIM_TEST_GPU === '1'

/** Whether the emulated driver and the kernels are built; says so where they are not. */
export function hasEmulator(): boolean {
  const missing = [...(onGpu ? [] : [emulatorLibrary]), kernelsFile].filter((file) => !existsSync(file))
  if (missing.length > 0)
    console.warn(
      `skipped: kernels on the emulated driver; not built: ${missing.join(', ')} (npm run build:cuda)`,
    )
  return missing.length === 0
}

export interface EmulatedDevice {
  device: NativeCudaDevice
  /** Launches since the last call. */
  launches(): LaunchReport[]
  /** Bytes of the copies to the host since the last call. */
  downloads(): number[]
  /** Throws what the emulator has found wrong. */
  close(): void
}

/** JSON, line by line; nothing where there is no file. */
function readLines(file: string): unknown[] {
  if (!existsSync(file)) return []
  return readFileSync(file, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
}

/** Opens the emulated device, whose launches are reported; on a GPU the first one, of which there are no reports. */
export function openEmulated(): EmulatedDevice {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'slim-emulator-'))
  const report = path.join(folder, 'report.jsonl')
  if (!onGpu) process.env.SLIMLLM_CUDA_DRIVER = emulatorLibrary
  const copies = path.join(folder, 'downloads')
  const findings = path.join(folder, 'findings.jsonl')
  process.env.SLIM_EMULATOR_REPORT = report
  process.env.SLIM_EMULATOR_DOWNLOADS = copies
  process.env.SLIM_EMULATOR_FINDINGS = findings
  const device = new (addon().CudaDevice)(0)
  const freshLines = (file: string) => {
    let seen = 0
    return () => {
      const fresh = readLines(file).slice(seen)
      seen += fresh.length
      return fresh
    }
  }
  return {
    device,
    launches: freshLines(report) as () => LaunchReport[],
    downloads: freshLines(copies) as () => number[],
    close() {
      device.dispose()
      const found = readLines(findings)
      rmSync(folder, { recursive: true })
      if (found.length > 0) throw new Error(`the emulator found ${JSON.stringify(found)}`)
    },
  }
}

/** A fixture's model on the device. */
export async function loadOnDevice(
  device: NativeCudaDevice,
  { blocks, embedding, head, spec }: LoadedDecoder,
): Promise<NativeDecoderModel> {
  const builder = new (addon().CudaModelBuilder)(device)
  for (const block of blocks) await run(builder.addBlock(block, 1))
  return run(builder.finish({ ...embedding, ...head, logitSoftcap: spec.logitSoftcap }, 1))
}
