import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { Worker } from 'node:worker_threads'
import { describe, expect, it } from 'vitest'
import { SlimError } from '../../lib/errors.js'
import { addon, type NativeJob, run } from '../../lib/native/addon.js'
import { type Caught, hasProgram, runChild, workerSource } from '../support/native_child.js'
import { temporaryFolder } from '../support/temporary.js'

const native = addon()
const ones = (...shape: number[]) =>
  native.tensorFrom(new Float32Array(shape[0]! * shape[1]!).fill(1), 'F32', shape)

function thrownBy(body: () => unknown): unknown {
  try {
    body()
  } catch (error) {
    return error
  }
  return undefined
}

describe('errors of the addon are SlimError', () => {
  const disposed = <T extends { dispose(): void }>(object: T) => {
    object.dispose()
    return object
  }
  const calls: [string, string, () => unknown][] = [
    ['a function', 'SLIM_INVALID_ARGUMENT', () => native.matmul(1 as never, ones(1, 1), 1)],
    ['a constructor', 'SLIM_INVALID_ARGUMENT', () => new native.Hessian(-1, 0)],
    ['a method', 'SLIM_INVALID_ARGUMENT', () => new native.Hessian(2, 0).add(ones(1, 3), 1, 1)],
    ['a disposed tensor', 'SLIM_DISPOSED', () => disposed(ones(1, 1)).toBytes()],
    ['a getter', 'SLIM_DISPOSED', () => disposed(new native.Hessian(1, 0)).size],
    ['a file', 'SLIM_FILE_NOT_FOUND', () => new native.MappedFile('/nowhere/at/all')],
    ['threads', 'SLIM_INVALID_ARGUMENT', () => native.findNonFinite(ones(1, 1), 5000)],
  ]
  it.each(calls)('thrown by %s: %s', (_, code, call) => {
    const error = thrownBy(call)
    expect(error).toBeInstanceOf(SlimError)
    expect(error).toMatchObject({ code })
  })

  it('in rejections, without run()', async () => {
    const error = await native.convertTensor(ones(1, 1), 'U8' as never, 1).promise.catch((e) => e)
    expect(error).toBeInstanceOf(SlimError)
    expect(error).toMatchObject({ code: 'SLIM_INVALID_ARGUMENT', parameter: 'dtype', received: 'U8' })
  })
})

describe('shapes that do not fit', () => {
  it.each([[[2 ** 32, 2 ** 32]], [[2 ** 31, 2 ** 31, 4]], [[2 ** 53, 1024]]])(
    'are refused by name: %j',
    (shape) => {
      const error = thrownBy(() => native.allocateTensor('F32', shape))
      expect(error).toMatchObject({ code: 'SLIM_INVALID_ARGUMENT', parameter: 'shape' })
      expect((error as Error).message).toContain(shape.join(', '))
    },
  )

  it('are refused where blocks are cut', () => {
    const bytes = new Uint8Array(34)
    expect(() => native.tensorFrom(bytes, 'Q8_0', [33])).toThrow(/multiple of 32 .* Q8_0 \[33\]/)
  })

  it('are out of memory when a system cannot have them', () => {
    const error = thrownBy(() => native.allocateTensor('F32', [2 ** 48]))
    expect(error).toMatchObject({ code: 'SLIM_OUT_OF_MEMORY' })
    expect((error as Error).message).toContain('F32 [281474976710656]')
  })
})

// Limits are set from within, once Node runs: it reserves much address space when it starts.
const limitMemory = (megabytes: number) => `
  const size = /VmSize:\\s+(\\d+)/.exec(require('node:fs').readFileSync('/proc/self/status', 'utf8'))[1] * 1024
  require('node:child_process').execFileSync('prlimit', ['--pid', process.pid, '--as=' + (size + ${megabytes} * 2 ** 20)])
`
const limited = process.platform === 'linux' && hasProgram('prlimit')
if (!limited) console.warn('No prlimit: the tests of memory limits are skipped')

describe.skipIf(!limited)('when memory runs out', () => {
  it('threads that cannot be started are an error, and fewer still work', () => {
    const [error, index] = runChild<[Caught, number]>(`
      const x = native.tensorFrom(new Float32Array(4), 'F32', [2, 2])
      ${limitMemory(200)}
      const error = await caught(() => native.findNonFinite(x, 1024))
      return [error, await native.findNonFinite(x, 2).promise]`)
    expect(error).toMatchObject({ local: true, code: 'SLIM_OUT_OF_MEMORY', parameter: 'threads' })
    expect(error.message).toMatch(/Cannot start 1024 threads/)
    expect(index).toBe(-1)
  })

  it('calls and jobs say so, and the process lives', () => {
    const errors = runChild<Caught[]>(`
      const ids = new Int32Array(2 ** 26)
      const table = native.tensorFrom(new Float32Array(4), 'F32', [2, 2])
      const parts = { embedding: table, embeddingScale: 1 }
      const [a, b] = [1, 2].map(() => native.allocateTensor('F32', [2 ** 14, 1]))
      await native.findNonFinite(a, 1).promise // libuv ends the process when it cannot start its threads
      ${limitMemory(100)}
      return [
        await caught(() => native.embedTokens(ids, 1, parts, null, 1)),
        await caught(() => native.matmul(a, b, 1).promise),
        await caught(() => new native.Hessian(2 ** 14, 0)),
      ]`)
    for (const error of errors) expect(error).toMatchObject({ local: true, code: 'SLIM_OUT_OF_MEMORY' })
  })
})

const compiles = process.platform === 'linux' && hasProgram('cc')
if (!compiles) console.warn('No C compiler: the test of file systems without O_TMPFILE is skipped')

describe('spilling', () => {
  it('says which folder it cannot write to', () => {
    const error = thrownBy(() => native.allocateTensor('F32', [4], '/nowhere/at/all'))
    expect(error).toMatchObject({ code: 'SLIM_FILE_UNWRITABLE' })
  })

  it.skipIf(!compiles)('works on a file system without O_TMPFILE, and leaves nothing there', () => {
    const folder = temporaryFolder()
    const [source, library, spill] = ['shim.c', 'shim.so', 'spill'].map((name) => path.join(folder, name))
    writeFileSync(
      source!,
      `#include <errno.h>
      #include <fcntl.h>
      #include <stdarg.h>
      #include <sys/syscall.h>
      #include <unistd.h>
      #define REFUSING(name) int name(const char* path, int flags, ...) { \\
        va_list rest; va_start(rest, flags); \\
        if ((flags & O_TMPFILE) == O_TMPFILE) { errno = EOPNOTSUPP; return -1; } \\
        return syscall(SYS_openat, AT_FDCWD, path, flags, va_arg(rest, int)); }
      REFUSING(open)
      REFUSING(open64)`,
    )
    execFileSync('cc', ['-D_GNU_SOURCE', '-shared', '-fPIC', '-o', library!, source!])
    mkdirSync(spill!)
    const result = runChild<{ bytes: number[]; files: string[]; refused: Caught }>(
      `
      const fs = require('node:fs'), spill = ${JSON.stringify(spill)}
      const refused = await caught(async () => fs.openSync(spill, fs.constants.O_RDWR | fs.constants.O_DIRECTORY | 0o20000000))
      const tensor = native.allocateTensor('U8', [3], spill)
      return { bytes: [...tensor.toBytes()], files: fs.readdirSync(spill), refused }`,
      { LD_PRELOAD: library! },
    )
    expect(result.refused).toMatchObject({ code: 'ENOTSUP' }) // the shim is in force
    expect(result.bytes).toEqual([0, 0, 0])
    expect(result.files).toEqual([])
    expect(readdirSync(spill!)).toEqual([])
  })

  it('leaves nothing in the folder', () => {
    const folder = temporaryFolder()
    native.allocateTensor('F32', [1000], folder)
    expect(readdirSync(folder)).toEqual([])
    expect(readdirSync(tmpdir()).filter((name) => name.startsWith('slimllm-spill'))).toEqual([])
  })
})

describe('worker threads', () => {
  const message = (worker: Worker) =>
    new Promise<unknown>((resolve, reject) => {
      worker.once('message', resolve)
      worker.once('error', reject)
      worker.once('exit', (code) => reject(new Error(`The worker ended with ${code}`)))
    })
  const FAILURES = `
    const sync = await caught(() => native.matmul(1, 2, 3))
    const x = native.tensorFrom(new Float32Array(4), 'F32', [2, 2])
    const job = await caught(() => native.convertTensor(x, 'U8', 2).promise)`

  it('get errors of their own class, two at once, and this thread still its own', async () => {
    const workers = [1, 2].map(
      () => new Worker(workerSource(`${FAILURES}; post([sync, job])`), { eval: true }),
    )
    for (const errors of await Promise.all(workers.map(message)))
      expect(errors).toMatchObject([
        { local: true, code: 'SLIM_INVALID_ARGUMENT', parameter: 'a' },
        { local: true, code: 'SLIM_INVALID_ARGUMENT', parameter: 'dtype' },
      ])
    expect(thrownBy(() => native.matmul(1 as never, 2 as never, 3))).toBeInstanceOf(SlimError)
    await Promise.all(workers.map((worker) => worker.terminate()))
  })

  // In a process of its own: a crash would take the tests along.
  it.each([
    ['succeeds', 'native.matmul(x, x, 2)'],
    ['fails', "native.inverseFactor(x, 'gptq', 2)"],
  ])('may be terminated while a job runs that %s', (_, job) => {
    const source = workerSource(`
      const x = native.tensorFrom(new Float32Array(1000 * 1000).fill(NaN), 'F32', [1000, 1000])
      for (let i = 0; i < 8; i++) ${job}.promise.catch(() => {})
      setInterval(() => {}, 1000)
      post('started')`)
    const codes = runChild<number[]>(`
      const { Worker } = require('node:worker_threads')
      const codes = []
      for (let i = 0; i < 4; i++) {
        const worker = new Worker(${JSON.stringify(source)}, { eval: true })
        await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
        codes.push(await worker.terminate())
      }
      return codes`)
    expect(codes).toEqual([1, 1, 1, 1])
  })
})

describe('cancelling', () => {
  const cancelled = async (job: NativeJob<unknown>) => {
    job.cancel()
    await expect(run(job)).rejects.toMatchObject({ code: 'SLIM_ABORTED' })
  }
  it('ends a job that still waits for a thread, whatever it would do', async () => {
    const x = native.allocateTensor('F16', [4000, 2000])
    const busy = Array.from({ length: 8 }, () => native.matmul(x, x, 2)) // more than libuv has threads
    const waiting = [native.convertTensor(x, 'F32', 2), native.findNonFinite(x, 2)]
    await Promise.all([...waiting, native.unpermuteRotaryRows(x, 4, 2), ...busy.slice(4)].map(cancelled))
    for (const job of busy.slice(0, 4)) job.cancel()
    await Promise.allSettled(busy.map((job) => job.promise))
  })

  it('ends a factorization in the middle', async () => {
    const n = 2000
    const values = new Float32Array(n * n)
    for (let i = 0; i < n; i++) values[i * n + i] = 1 + i
    const job = native.inverseFactor(native.tensorFrom(values, 'F32', [n, n]), 'gptq', 1)
    setTimeout(() => job.cancel(), 5) // it takes a hundred times as long
    await expect(run(job)).rejects.toMatchObject({ code: 'SLIM_ABORTED' })
  })
})

describe.skipIf(!limited)('memory of objects', () => {
  // A tensor is a few bytes of JavaScript: without being told of the rest, nothing would be collected in time.
  it.each([
    ['tensors', "native.allocateTensor('F32', [2 ** 22])"],
    ['Hessians', 'new native.Hessian(2 ** 11, 0)'],
  ])('is known to the garbage collector: %s that nobody disposes of are freed', (_, make) => {
    const made = runChild<number>(`
      ${limitMemory(1500)}
      let made = 0
      for (; made < 400; made++) {
        ${make}
        await new Promise(setImmediate)
      }
      return made`)
    expect(made).toBe(400) // 6.25 GiB
  })
})
