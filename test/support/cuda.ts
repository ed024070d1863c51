/** The CUDA backend on the emulated driver, as `npm run build:cuda` builds it. */
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

/** Whether the emulated driver and the kernels are built; says so where they are not. */
export function hasEmulator(): boolean {
  const missing = [emulatorLibrary, kernelsFile].filter((file) => !existsSync(file))
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
  close(): void
}

/** Opens the emulated device, whose launches are reported. */
export function openEmulated(): EmulatedDevice {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'slim-emulator-'))
  const report = path.join(folder, 'report.jsonl')
  process.env.SLIMLLM_CUDA_DRIVER = emulatorLibrary
  process.env.SLIM_EMULATOR_REPORT = report
  const device = new (addon().CudaDevice)(0)
  let seen = 0
  return {
    device,
    launches() {
      const lines = existsSync(report) ? readFileSync(report, 'utf8').trim().split('\n') : []
      const fresh = lines.slice(seen).map((line) => JSON.parse(line) as LaunchReport)
      seen = lines.length
      return fresh
    },
    close() {
      device.dispose()
      rmSync(folder, { recursive: true })
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
