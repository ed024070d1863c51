// Compiles native/cuda/kernels.cu with nvcc to build/Release/kernels.fatbin, beside the addon: machine code for
// sm_80, sm_86, sm_89 and sm_90a, and PTX for later chips; and, in a clone, the emulated driver (build-emulator.mjs).
// --kernels or --emulator builds one alone; --ptx leaves the machine code out (quicker; enough for the emulator);
// --prebuild puts a copy of the kernels into prebuilds/.
import { spawn } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)))
const ARCHITECTURES = ['80', '86', '89', '90a']
const MOST_BYTES = 8e6 // what the npm package can bear

function fail(message) {
  console.error(message)
  process.exit(1)
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

/** Two fatbins as one: a header of 16 bytes, whose last 8 are the length of the images that follow. */
function join(first, second) {
  const header = Buffer.from(first.subarray(0, 16))
  header.writeBigUInt64LE(BigInt(first.length + second.length - 32), 8)
  return Buffer.concat([header, first.subarray(16), second.subarray(16)])
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

/** What `ptxas -v` says of every kernel: registers, and bytes of local memory, which none of them should need. */
function readReport(architecture, text) {
  const blocks = text.split(/Compiling entry function '/).slice(1)
  return blocks.map((block) => {
    const number = (pattern) => Number(pattern.exec(block)?.[1] ?? 0)
    return {
      kernel: block.slice(0, block.indexOf("'")),
      architecture,
      registers: number(/Used (\d+) registers/),
      stackBytes: number(/(\d+) bytes stack frame/),
      spillBytes: number(/(\d+) bytes spill stores/) + number(/(\d+) bytes spill loads/),
      sharedBytes: number(/(\d+) bytes smem/),
    }
  })
}

/** A fatbin of one target: its bytes, and what the compiler said. */
function compile(nvcc, file, target, compression) {
  const args = [
    '-fatbin',
    '-O3',
    '-std=c++17',
    '-Inative',
    '-Werror',
    'all-warnings',
    '-Xptxas=-v',
    '-Xfatbin=-compress-all',
    `--compress-mode=${compression}`,
  ]
  const child = spawn(nvcc, [...args, `-gencode=${target}`, '-o', file, 'native/cuda/kernels.cu'], {
    cwd: root,
  })
  let text = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (text += data))
  return new Promise((resolve) => {
    child.on('close', (status) => {
      if (status !== 0) fail(`${text}nvcc failed for ${target}`)
      resolve({ bytes: readFileSync(file), text })
    })
  })
}

async function buildKernels() {
  const nvcc = findNvcc()
  const scratch = path.join(root, 'build/cuda')
  const output = path.join(root, 'build/Release/kernels.fatbin')
  mkdirSync(scratch, { recursive: true })
  mkdirSync(path.dirname(output), { recursive: true })
  const targets = (process.argv.includes('--ptx') ? [] : ARCHITECTURES).map((architecture) => ({
    architecture,
    target: `arch=compute_${architecture},code=sm_${architecture}`,
    // zstd is known to drivers of CUDA 12.8 and later, as is what this compiler makes.
    compression: 'size',
  }))
  // The PTX of the fewest demands, which runs on every chip from sm_80 on. By LZ4: the emulator runs the very text
  // that ships, and expands that alone.
  targets.push({
    architecture: 'ptx',
    target: 'arch=compute_80,code=compute_80',
    compression: 'speed',
  })
  const results = new Map()
  const waiting = [...targets]
  const work = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      const file = path.join(scratch, `${next.architecture}.fatbin`)
      results.set(next.architecture, await compile(nvcc, file, next.target, next.compression))
      rmSync(file)
    }
  }
  await Promise.all(Array.from({ length: os.availableParallelism() }, work))
  const bytes = targets.map(({ architecture }) => results.get(architecture).bytes).reduce(join)
  const kernels = targets.flatMap(({ architecture }) =>
    readReport(architecture, results.get(architecture).text),
  )
  const report = { hash: fnv1a(bytes).toString(16), kernels }
  writeFileSync(path.join(scratch, 'ptxas.json'), `${JSON.stringify(report, null, 1)}\n`)
  writeFileSync(output, Buffer.concat([bytes, trailer(bytes)]))
  const size = bytes.length + 32
  console.log(`${path.relative(root, output)}: ${(size / 2 ** 20).toFixed(2)} MiB`)
  if (size > MOST_BYTES) fail(`kernels.fatbin is larger than ${MOST_BYTES} bytes`)
  if (process.argv.includes('--prebuild')) {
    mkdirSync(path.join(root, 'prebuilds'), { recursive: true })
    copyFileSync(output, path.join(root, 'prebuilds/kernels.fatbin'))
  }
}

if (!process.argv.includes('--emulator')) await buildKernels()
// The npm package has no emulator: it is a tool of the tests.
if (!process.argv.includes('--kernels') && existsSync(path.join(root, 'scripts/build-emulator.mjs')))
  await (await import('./build-emulator.mjs')).buildEmulator()
