// Compiles native/cuda/kernels.cu with nvcc to build/Release/kernels.fatbin, beside the addon: machine code for
// sm_80, sm_86, sm_89 and sm_90a, and PTX for later chips; and test/cuda-emulator, where it is there, to
// build/cuda-emulator/libcuda-emulator.so. --kernels or --emulator builds one alone; --ptx leaves the machine code
// out (quicker; enough for the emulator); --prebuild puts a copy of the kernels into prebuilds/.
import { spawnSync } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)))
const ARCHITECTURES = ['80', '86', '89', '90a']
const MOST_BYTES = 8 * 2 ** 20 // what the npm package can bear

function fail(message) {
  console.error(message)
  process.exit(1)
}

function run(command, args) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' })
  if (error) fail(`${command} cannot be run: ${error.message}`)
  if (status !== 0) fail(`${command} failed with exit status ${status}`)
}

/** nvcc of the PATH, of CUDA_HOME, or where CUDA's packages put it. */
function findNvcc() {
  const folders = [...(process.env.PATH ?? '').split(path.delimiter)]
  if (process.env.CUDA_HOME) folders.unshift(path.join(process.env.CUDA_HOME, 'bin'))
  folders.push('/usr/local/cuda/bin')
  const found = folders.map((folder) => path.join(folder, 'nvcc')).find(existsSync)
  if (!found)
    fail(
      'nvcc is not installed (looked in CUDA_HOME, PATH and /usr/local/cuda/bin): install the CUDA toolkit 12.8 or ' +
        'later to compile the GPU kernels. The CPU kernels need none of it',
    )
  return found
}

// FNV-1a, 64 bits, in two halves of 32: no BigInt for each byte.
function fnv1a(bytes) {
  let [high, low] = [0xcbf29ce4, 0x84222325]
  for (const byte of bytes) {
    low = (low ^ byte) >>> 0
    const product = low * 0x1b3 // the prime is 2^40 + 0x1b3
    high = (Math.imul(high, 0x1b3) + Math.floor(product / 2 ** 32) + (low << 8)) >>> 0
    low = product >>> 0
  }
  return (BigInt(high) << 32n) | BigInt(low)
}

/** The trailer that native/cuda/kernels_file.cc checks. */
function trailer(fatbin) {
  const header = readFileSync(path.join(root, 'native/cuda/kernels/arguments.h'), 'utf8')
  const version = Number(/kKernelsVersion = (\d+);/.exec(header)[1])
  const bytes = Buffer.alloc(32)
  bytes.write('SLIMCUDA', 'latin1')
  bytes.writeUInt32LE(version, 8)
  bytes.writeBigUInt64LE(BigInt(fatbin.length), 16)
  bytes.writeBigUInt64LE(fnv1a(fatbin), 24)
  return bytes
}

function buildKernels() {
  const nvcc = findNvcc()
  const scratch = path.join(root, 'build/cuda')
  const output = path.join(root, 'build/Release/kernels.fatbin')
  mkdirSync(scratch, { recursive: true })
  mkdirSync(path.dirname(output), { recursive: true })
  const fatbin = path.join(scratch, 'kernels.fatbin')
  run(nvcc, [
    '-fatbin',
    '-O3',
    '-std=c++17',
    '-Inative',
    '-Werror',
    'all-warnings',
    `--threads=${os.availableParallelism()}`,
    ...(process.argv.includes('--ptx') ? [] : ARCHITECTURES).map(
      (arch) => `-gencode=arch=compute_${arch},code=sm_${arch}`,
    ),
    // The PTX of the fewest demands: what runs on every chip from sm_80 on, and what the emulator runs.
    '-gencode=arch=compute_80,code=compute_80',
    // The emulator reads the very PTX that ships. Of nvcc's images either all are compressed or none.
    '--no-compress',
    '-o',
    fatbin,
    'native/cuda/kernels.cu',
  ])
  const bytes = readFileSync(fatbin)
  rmSync(scratch, { recursive: true })
  writeFileSync(output, Buffer.concat([bytes, trailer(bytes)]))
  const size = bytes.length + 32
  console.log(`${path.relative(root, output)}: ${(size / 2 ** 20).toFixed(2)} MiB`)
  if (size > MOST_BYTES) fail(`kernels.fatbin is larger than ${MOST_BYTES} bytes`)
  if (process.argv.includes('--prebuild')) {
    const folder = path.join(root, 'prebuilds', `${process.platform}-${process.arch}`)
    mkdirSync(folder, { recursive: true })
    copyFileSync(output, path.join(folder, 'kernels.fatbin'))
  }
}

function buildEmulator() {
  const folder = path.join(root, 'test/cuda-emulator')
  const sources = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.cc')) : []
  if (sources.length === 0) return
  const output = path.join(root, 'build/cuda-emulator/libcuda-emulator.so')
  mkdirSync(path.dirname(output), { recursive: true })
  run('g++', [
    '-std=c++20',
    '-O2',
    '-fPIC',
    '-shared',
    '-fvisibility=hidden',
    '-Wall',
    '-Wextra',
    '-pthread',
    '-o',
    output,
    ...sources.map((name) => path.join(folder, name)),
  ])
  console.log(path.relative(root, output))
}

if (!process.argv.includes('--emulator')) buildKernels()
if (!process.argv.includes('--kernels')) buildEmulator()
