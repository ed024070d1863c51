import { spawnSync } from 'node:child_process'
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { type CudaDriverFacts, packageRoot } from '../../lib/native/addon.js'
import { emulatorLibrary, hasEmulator, kernelsFile } from '../support/cuda.js'
import { type Caught, runChild } from '../support/native_child.js'
import { temporaryFolder } from '../support/temporary.js'

const skip = !hasEmulator()
const folder = temporaryFolder()

const open = (env: Record<string, string>) =>
  runChild<Caught | null>('return (await caught(() => new native.CudaDevice(0))) ?? null', env)
const facts = (env: Record<string, string>) => runChild<CudaDriverFacts>('return native.cudaDriver()', env)
const emulated = { SLIMLLM_CUDA_DRIVER: emulatorLibrary }

it('says which driver library was tried, and how to go on', () => {
  expect(open({ SLIMLLM_CUDA_DRIVER: '/nowhere/libcuda.so' })).toMatchObject({
    code: 'SLIM_DEVICE_UNAVAILABLE',
    parameter: 'device',
    message: expect.stringMatching(/SLIMLLM_CUDA_DRIVER names \/nowhere\/libcuda\.so.*cannot open/s),
  })
  expect(facts({ SLIMLLM_CUDA_DRIVER: '/nowhere/libcuda.so' })).toMatchObject({ driver: null, devices: [] })
})

it('names the function that a library lacks', () => {
  expect(open({ SLIMLLM_CUDA_DRIVER: 'libm.so.6' })?.message).toMatch(/has no cuInit.*libm\.so\.6/)
})

describe.skipIf(skip)('with the emulated driver', () => {
  it('describes its devices', () => {
    const { driver, version, devices, kernels, kernelsError } = facts({
      ...emulated,
      SLIM_EMULATOR_DEVICES: '2',
    })
    expect(driver).toBe(emulatorLibrary)
    expect(version).toMatch(/^\d+\.\d+$/)
    expect(devices).toHaveLength(2)
    expect(devices[1]).toMatchObject({ index: 1, computeCapability: '8.0', memoryBytes: expect.any(Number) })
    expect(kernels).toBe(kernelsFile)
    expect(kernelsError).toBeNull()
  })

  it('says that there is no device, or one too old', () => {
    const none = open({ ...emulated, SLIM_EMULATOR_DEVICES: '0' })
    expect(none).toMatchObject({
      code: 'SLIM_DEVICE_UNAVAILABLE',
      message: expect.stringMatching(/no device/),
    })
    const old = open({ ...emulated, SLIM_EMULATOR_CC: '75' })
    expect(old).toMatchObject({
      code: 'SLIM_DEVICE_UNAVAILABLE',
      message: expect.stringMatching(/7\.5.*8\.0/),
    })
  })

  it('refuses kernels that are missing, cut off, damaged, or of another version', () => {
    const whole = readFileSync(kernelsFile)
    const variant = (name: string, change: (bytes: Buffer) => Buffer) => {
      const file = path.join(folder, name)
      writeFileSync(file, change(Buffer.from(whole)))
      return open({ ...emulated, SLIMLLM_CUDA_KERNELS: file })
    }
    const refused = (caught: Caught | null, words: RegExp) =>
      expect(caught).toMatchObject({
        code: 'SLIM_DEVICE_UNAVAILABLE',
        message: expect.stringMatching(words),
      })
    refused(
      open({ ...emulated, SLIMLLM_CUDA_KERNELS: '/nowhere/kernels' }),
      /\/nowhere\/kernels cannot be read/,
    )
    refused(
      variant('short', (bytes) => bytes.subarray(0, bytes.length - 1)),
      /no whole kernels\.fatbin/,
    )
    refused(
      variant('empty', () => Buffer.alloc(0)),
      /no whole|cannot be read/,
    )
    refused(
      variant('damaged', (bytes) => {
        bytes[1000]! ^= 1
        return bytes
      }),
      /damaged/,
    )
    refused(
      variant('other', (bytes) => {
        bytes.writeUInt32LE(999, bytes.length - 24)
        return bytes
      }),
      /version 999/,
    )
    expect(variant('same', (bytes) => bytes)).toBeNull()
  })

  it('names function, kernel and shape of a launch that fails', () => {
    const script = (env: Record<string, string>) =>
      runChild<Caught>(
        `const u8 = (n, fill) => native.tensorFrom(new Uint8Array(n).fill(fill), 'U8', [n])
         const matrix = new native.PackedMatrix({ rows: 16, cols: 128, groupSize: 128, qweight: u8(512, 0),
           groupBits: u8(1, 2), scales: native.allocateTensor('F16', [1, 16]), qzeros: u8(4, 0) })
         const packed = await new native.CudaDevice(0).packedMatrix(matrix, 1).promise
         return caught(() => packed.matmul(native.allocateTensor('F32', [1, 128])).promise)`,
        { ...emulated, ...env },
      )
    // A bound on instructions that every launch exceeds.
    const failed = script({ SLIM_EMULATOR_LIMIT: '100' })
    expect(failed).toMatchObject({
      code: 'SLIM_DEVICE_FAILED',
      message: expect.stringMatching(/kernel tokenScales/),
    })
  })

  it('tells of memory that is not there', () => {
    const failed = runChild<Caught>(
      `const rows = 4096, cols = 4096, groups = 32
       const u8 = (n, fill) => native.tensorFrom(new Uint8Array(n).fill(fill), 'U8', [n])
       const matrix = new native.PackedMatrix({ rows, cols, groupSize: 128, qweight: u8(rows * cols / 4, 0),
         groupBits: u8(groups, 2), scales: native.allocateTensor('F16', [groups, rows]), qzeros: u8(groups * rows / 4, 0) })
       return caught(() => new native.CudaDevice(0).packedMatrix(matrix, 1).promise)`,
      { ...emulated, SLIM_EMULATOR_MEMORY: String(2 ** 21) },
    )
    expect(failed).toMatchObject({
      code: 'SLIM_OUT_OF_MEMORY',
      message: expect.stringMatching(/\d+ bytes of device memory for packed weights/),
    })
  })

  it('reaches doctor', () => {
    const doctor = (env: Record<string, string>) =>
      spawnSync(process.execPath, [path.join(packageRoot(), 'dist', 'cli', 'main.js'), 'doctor'], {
        encoding: 'utf8',
        env: { ...process.env, ...env },
      }).stdout
    expect(doctor(emulated)).toMatch(
      /CUDA: driver \d+\.\d+ .*libcuda-emulator\.so[\s\S]*device 0: .*kernels: (PTX|sm_80)/,
    )
    expect(doctor({ SLIMLLM_CUDA_DRIVER: '/nowhere/x' })).toMatch(
      /CUDA: The CUDA driver library cannot be opened/,
    )
    const kernels = path.join(folder, 'doctor.fatbin')
    copyFileSync(kernelsFile, kernels)
    writeFileSync(kernels, 'x')
    expect(doctor({ ...emulated, SLIMLLM_CUDA_KERNELS: kernels })).toMatch(/no whole kernels\.fatbin/)
  })
})
