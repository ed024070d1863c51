// What warps, CTAs, modules and graphs do, in kernels whose results are known.
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { encode, formats } from './exact.js'
import { Bench, buffer, buildTimeout, withoutNvcc } from './support.js'

const source = path.join(path.dirname(fileURLToPath(import.meta.url)), 'kernels', 'execution.cu')
const count = <T>(n: number, f: (i: number) => T) => Array.from({ length: n }, (_, i) => f(i))

describe.skipIf(withoutNvcc)('execution', () => {
  let bench: Bench
  let module: string
  beforeAll(async () => {
    bench = await Bench.open()
    module = await bench.compile(source)
  }, buildTimeout)
  afterAll(() => bench.close())

  /** Runs lines that use buffer y of this many bytes, and reads it. */
  const result = async (bytes: number, lines: string[], environment = {}) => {
    const file = bench.path('y')
    const { outcomes } = await bench.run(
      ['device 0', `module ${module}`, `allocate y ${bytes}`, 'fill y 0', ...lines, `read y ${file}`],
      environment,
    )
    expect(outcomes.filter((o) => o.error !== 0)).toEqual([])
    return readFileSync(file)
  }
  const ints = (bytes: Buffer) => count(bytes.length / 4, (i) => bytes.readInt32LE(4 * i))
  const floats = (bytes: Buffer) => count(bytes.length / 4, (i) => bytes.readFloatLE(4 * i))

  it('lanes that part at branches meet again, return early, and choose by a table', async () => {
    const expected = (n: number) =>
      count(32, (i) => {
        if (i === 13) return -1
        let sum = 0
        for (let k = 0; k < i && k < 20; k++) sum += k & 1 ? k : k % 3 === 0 ? -1 : 100
        const ways = [
          (s: number) => s + 1,
          (s: number) => s * 3,
          (s: number) => s - 5,
          (s: number) => s ^ 77,
          (s: number) => -s,
          (s: number) => s + 1000,
        ]
        return (ways[(i % 7) + n] ?? (() => 5))(sum) | 0
      })
    for (const n of [0, 2]) {
      expect(ints(await result(128, [`launch divergence 1 1 1 32 1 1 0 @y s32:${n}`]))).toEqual(expected(n))
    }
  })

  it('brx.idx sends each lane to its own target', async () => {
    const text = `.version 9.0
.target sm_80
.address_size 64
.visible .entry table(.param .u64 table_y) {
  .reg .b32 %i, %k, %v;
  .reg .b64 %y;
  ld.param.u64 %y, [table_y];
  mov.u32 %i, %tid.x;
  rem.u32 %k, %i, 3;
  mov.u32 %v, 5;
  mad.wide.u32 %y, %i, 4, %y;
  targets: .branchtargets one, two, three;
  brx.idx %k, targets;
one: add.u32 %v, %i, 100; bra.uni done;
two: add.u32 %v, %i, 200; bra done;
three: mul.lo.u32 %v, %v, %i;
done: st.global.u32 [%y], %v;
  ret;
}`
    const file = bench.path('table')
    const { outcomes } = await bench.run([
      'device 0',
      `module ${bench.file(text, 'ptx')}`,
      'allocate y 128',
      'launch table 1 1 1 32 1 1 0 @y',
      `read y ${file}`,
    ])
    expect(outcomes.filter((o) => o.error !== 0)).toEqual([])
    expect(ints(readFileSync(file))).toEqual(count(32, (i) => [i + 100, i + 200, 5 * i][i % 3]))
  })

  it('stmatrix stores what ldmatrix loads, and a barrier reduces a predicate', async () => {
    const text = `.version 9.0
.target sm_90
.address_size 64
.visible .entry store(.param .u64 store_y) {
  .shared .align 16 .b8 tile[512];
  .reg .b32 %i, %v, %s, %r, %w, %n, %m;
  .reg .pred %p, %q;
  .reg .b64 %y;
  ld.param.u64 %y, [store_y];
  mov.u32 %i, %tid.x;
  mov.u32 %s, tile;
  shr.u32 %w, %i, 5;
  shl.b32 %w, %w, 7;
  and.b32 %r, %i, 7;
  mad.lo.u32 %s, %r, 16, %s;
  add.u32 %s, %s, %w;
  stmatrix.sync.aligned.m8n8.x1.shared.b16 [%s], {%i};
  bar.warp.sync 0xffffffff;
  ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%v}, [%s];
  setp.lt.u32 %p, %i, 40;
  bar.red.popc.u32 %n, 0, %p;
  bar.red.and.pred %q, 0, !%p;
  selp.b32 %m, 1, 0, %q;
  mad.wide.u32 %y, %i, 12, %y;
  st.global.u32 [%y], %v;
  st.global.u32 [%y+4], %n;
  st.global.u32 [%y+8], %m;
  ret;
}`
    const file = bench.path('store')
    const { outcomes } = await bench.run(
      [
        'device 0',
        `module ${bench.file(text, 'ptx')}`,
        'allocate y 768',
        'launch store 1 1 1 64 1 1 0 @y',
        `read y ${file}`,
      ],
      { SLIM_EMULATOR_CC: '90' },
    )
    expect(outcomes.filter((o) => o.error !== 0)).toEqual([])
    expect(ints(readFileSync(file))).toEqual(count(64, (i) => [i, 40, 0]).flat())
  })

  it('functions are called with structures, from lanes that part in them', async () => {
    const y = floats(await result(128, ['launch calls 1 1 1 32 1 1 0 @y s32:3 f32:0.5']))
    expect(y).toEqual(count(32, (i) => (i & 1 ? (3 + i) * 2 + 0.5 : 3 + i + 1)))
  })

  it('variables of the module keep their values from launch to launch', async () => {
    const launch = 'launch variables 1 1 1 32 1 1 0 @y'
    expect(floats(await result(128, [launch]))).toEqual(count(32, (i) => 2 ** (i & 3) + 9 + 7))
    expect(floats(await result(128, [launch, launch]))).toEqual(count(32, (i) => 2 ** (i & 3) + 9 + 8))
  })

  it('local memory belongs to a thread', async () => {
    const y = ints(await result(128, ['launch local 1 1 1 32 1 1 0 @y s32:3']))
    expect(y).toEqual(count(32, (t) => [0, 3, 6, 1, 4, 7, 2, 5][(t + 3) & 7]! * t))
  })

  it('a reduction is the same in any order of the warps', async () => {
    const x = Float32Array.from({ length: 512 }, (_, i) => (i * 37) % 101)
    const sums = [x.subarray(0, 256), x.subarray(256)].map((half) => half.reduce((a, b) => a + b, 0))
    for (const seed of ['1', '7', '99']) {
      const y = await result(8, [...buffer(bench, 'x', x), 'launch reduction 2 1 1 256 1 1 0 @x @y'], {
        SLIM_EMULATOR_SEED: seed,
      })
      expect(floats(y)).toEqual(sums)
    }
  })

  it('shuffles, votes, matches and reductions', async () => {
    const y = ints(await result(1024, ['launch shuffles 1 1 1 32 1 1 0 @y']))
    for (let i = 0; i < 32; i++) {
      expect(y.slice(8 * i, 8 * i + 8)).toEqual([
        5,
        i >= 3 ? i - 3 : i,
        (i & 7) + 3 < 8 ? i + 3 : i,
        i ^ 6,
        0x49249249,
        2,
        (0xff << (8 * (i >> 3))) | 0,
        496,
      ])
    }
  })

  it('atomics', async () => {
    const lines = ['f', 'h', 'w'].flatMap((name) => [`allocate ${name} 8`, `fill ${name} 0`])
    const launch = 'launch atomics 2 1 1 64 1 1 0 @y @f @h @w'
    expect(ints(await result(32, [...lines, launch]))).toEqual([32, 32, 32, 32, 63, -63, 42, 5])
    const read = async (name: string) => {
      const file = bench.path(name)
      await result(32, [...lines, launch, `read ${name} ${file}`])
      return readFileSync(file)
    }
    expect((await read('f')).readFloatLE()).toBe(64)
    expect((await read('h')).readUInt32LE()).toBe(0x5c005800)
    expect((await read('w')).readBigUInt64LE()).toBe(128n << 33n)
  })

  it('one access of a warp may go to shared and to global memory', async () => {
    const lines = [
      ...buffer(
        bench,
        'x',
        Float32Array.from({ length: 32 }, (_, i) => i),
      ),
      'launch generic 1 1 1 32 1 1 0 @x @y',
    ]
    expect(floats(await result(128, lines))).toEqual(count(32, (i) => (i & 1 ? 100 + i : i)))
  })

  it('the functions of CUDA’s mathematics', async () => {
    const x = Float32Array.from({ length: 32 }, (_, i) => (i - 16) * 0.7)
    const y = floats(await result(512, [...buffer(bench, 'x', x), 'launch math 1 1 1 32 1 1 0 @x @y']))
    x.forEach((value, i) => {
      const expected = [
        Math.exp(value),
        Math.sin(Math.fround(value * 1000)),
        Math.tanh(value),
        Math.abs(value) ** 1.5,
      ]
      expected.forEach((e, k) => {
        expect(Math.abs(y[4 * i + k]! - e)).toBeLessThanOrEqual(4e-7 * Math.max(Math.abs(e), 1e-6))
      })
    })
  })

  it('cp.async in four stages', async () => {
    const x = Float32Array.from({ length: 10 * 128 }, (_, i) => i % 97)
    const y = floats(
      await result(128, [...buffer(bench, 'x', x), 'launch pipeline 1 1 1 32 1 1 0 @x @y s32:10']),
    )
    const sumAt = (i: number) =>
      count(10, (tile) =>
        x
          .subarray((tile * 32 + (i ^ 1)) * 4)
          .subarray(0, 4)
          .reduce((a, b) => a + b),
      ).reduce((a, b) => a + b)
    expect(y).toEqual(count(32, sumAt))
  })

  describe('matrix products', () => {
    const small = (i: number, seed: number) => (((i * 2654435761 + seed * 40503) >>> 7) % 9) - 4
    const float = (x: number, format: keyof typeof formats) =>
      encode({ n: BigInt(x), e: -1 }, formats[format])
    const packs = {
      f16: (x: number[]) => Uint16Array.from(x, (v) => Number(float(v, 'f16'))),
      bf16: (x: number[]) => Uint16Array.from(x, (v) => Number(float(v, 'bf16'))),
      tf32: (x: number[]) => Float32Array.from(x, (v) => v / 2),
      s8: (x: number[]) => Int8Array.from(x, (v) => v * 29),
    }
    it.each([
      ['mmaHalf16', 16, 'f16'],
      ['mmaBrain16', 16, 'bf16'],
      ['mmaHalf8', 8, 'f16'],
      ['mmaTf32', 8, 'tf32'],
      ['mmaInt32', 32, 's8'],
      ['mmaInt16', 16, 's8'],
      ['mmaHalfHalf', 16, 'f16'],
      ['mmaLoaded', 16, 'f16'],
    ] as const)('%s', async (kernel, depth, type) => {
      const a = count(16 * depth, (i) => small(i, 1))
      const b = count(8 * depth, (i) => small(i, 2)) // by columns: b[n][k]
      const scale = type === 's8' ? 29 * 29 : 0.25
      const expected = count(128, (i) => {
        const [row, column] = [i >> 3, i & 7]
        return (
          1 +
          scale * count(depth, (k) => a[row * depth + k]! * b[column * depth + k]!).reduce((x, y) => x + y)
        )
      })
      const byRows = count(8 * depth, (i) => b[(i % 8) * depth + (i >> 3)]!)
      const lines = [
        ...buffer(bench, 'a', packs[type](a)),
        ...buffer(bench, 'b', packs[type](kernel === 'mmaLoaded' ? byRows : b)),
      ]
      const y = await result(512, [...lines, `launch ${kernel} 1 1 1 32 1 1 0 @a @b @y`])
      expect(type === 's8' ? ints(y) : floats(y)).toEqual(expected)
    })
  })

  it('a graph replays what its stream recorded', async () => {
    const lines = [
      'capture',
      'fill y 0',
      'launch increment 1 1 1 8 1 1 0 @y',
      'launch increment 1 1 1 8 1 1 0 @y',
      'end',
    ]
    expect(ints(await result(32, lines))).toEqual(Array(8).fill(0))
    expect(ints(await result(32, [...lines, 'replay', 'replay', 'elapsed']))).toEqual(Array(8).fill(2))
  })

  it('a capture records the work of a second stream that is joined to it, and wants all of it joined', async () => {
    const fork = [
      'stream first',
      'capture',
      'fill y 0',
      'record begun',
      'stream second',
      'wait begun',
      'launch increment 1 1 1 8 1 1 0 @y',
      'record done',
    ]
    const join = ['stream first', 'wait done', 'launch increment 1 1 1 8 1 1 0 @y', 'end']
    const clean = ['destroy first', 'destroy second', 'stream third']
    const y = await result(32, [...fork, ...join, 'replay', 'replay', ...clean])
    expect(ints(y)).toEqual(Array(8).fill(2))
    const start = ['device 0', `module ${module}`, 'allocate y 32']
    const late = [...fork, 'launch increment 1 1 1 8 1 1 0 @y', ...join]
    for (const lines of [late, [...fork, 'stream first', 'end']]) {
      expect((await bench.run([...start, ...lines])).last.name).toBe('CUDA_ERROR_STREAM_CAPTURE_UNJOINED')
    }
    // A third stream waits for the second, and the first for the third.
    const chain = [
      ...fork,
      'stream third',
      'wait done',
      'record chained',
      'stream first',
      'wait chained',
      'end',
    ]
    expect((await bench.run([...start, ...chain])).outcomes.filter((o) => o.error !== 0)).toEqual([])
  })

  it('arguments may be passed by pointers', async () => {
    const y = await result(128, ['launchPointers calls 1 1 1 32 1 1 0 @y u64:0x3f00000000000003'])
    expect(floats(y)).toEqual(count(32, (i) => (i & 1 ? (3 + i) * 2 + 0.5 : 3 + i + 1)))
  })

  it('waiting or allocating while a stream captures makes the capture invalid', async () => {
    const start = [
      'device 0',
      `module ${module}`,
      'allocate y 32',
      'fill y 0',
      'capture',
      'launch increment 1 1 1 8 1 1 0 @y',
    ]
    for (const line of [
      'synchronize',
      'allocate z 4',
      'allocateHost z 4',
      'free y',
      `read y ${bench.path('y')}`,
    ]) {
      const { outcomes } = await bench.run([...start, line, 'end'])
      expect(outcomes.slice(-2).map((o) => o.name)).toEqual([
        'CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED',
        'CUDA_ERROR_STREAM_CAPTURE_INVALIDATED',
      ])
    }
  })

  it('a fatbin gives its PTX; one by zstd, a damaged one or one without PTX is refused with the reason', async () => {
    const fatbin = (options: string[]) =>
      bench.compile(source, ['-fatbin', '-gencode', 'arch=compute_80,code=sm_80', ...options])
    const load = async (file: string, environment = {}) =>
      (await bench.run(['device 0', `module ${file}`, 'function increment'], environment)).outcomes.slice(1)
    const ptx = ['-gencode', 'arch=compute_80,code=compute_80']
    const lz4 = await fatbin(['-Xfatbin=-compress-all', '--compress-mode=speed', ...ptx])
    for (const file of [await fatbin(['--no-compress', ...ptx]), lz4])
      expect((await load(file)).map((o) => o.error)).toEqual([0, 0])
    expect((await load(await fatbin(ptx)))[0]).toMatchObject({
      error: 209,
      text: expect.stringMatching(/compressed by zstd.*--compress-mode=speed/),
    })
    // A copy from before the beginning of the text, in its first bytes.
    const damaged = readFileSync(lz4)
    const text = damaged.lastIndexOf('.version')
    damaged.fill(255, text - 4, text - 2)
    expect((await load(bench.file(damaged)))[0]!.text).toMatch(/compressed PTX is damaged/)
    expect((await load(await fatbin(['--no-compress'])))[0]!.text).toMatch(
      /no PTX for compute capability 80 or below \(it has: machine code 80\)/,
    )
    expect((await load(bench.file('nonsense'.repeat(9))))[0]!.text).toMatch(/neither a fatbin nor PTX/)
  })

  it('devices are as many as asked for, each with memory of its own', async () => {
    const { outcomes } = await bench.run(
      [
        'device 2',
        `module ${module}`,
        'allocate y 32',
        'fill y 0',
        'device 1',
        'launch increment 1 1 1 8 1 1 0 @y',
        'device 3',
      ],
      {
        SLIM_EMULATOR_DEVICES: '3',
        SLIM_EMULATOR_CC: '90',
      },
    )
    expect(outcomes[0]).toMatchObject({ device: 'slimllm emulated device', capability: 90 })
    expect(outcomes.map((o) => o.error)).toEqual([0, 0, 0, 0, 0, 400, 101])
  })

  it('memory runs out', async () => {
    const { outcomes } = await bench.run(
      ['device 0', 'allocate x 600', 'allocate y 600', 'free x', 'allocate y 600'],
      { SLIM_EMULATOR_MEMORY: '1000' },
    )
    expect(outcomes.map((o) => o.error)).toEqual([0, 0, 2, 0, 0])
  })

  it('what is wrong with a text is said with its line', async () => {
    const { last } = await bench.run([
      'device 0',
      `module ${bench.file('.version 9.0\n.target sm_80\n.visible .entry k() {\n  add.u32 %r1 %r2;\n}\n')}`,
    ])
    expect(last).toMatchObject({ error: 218, text: expect.stringMatching(/PTX line 4: expected ',' or ';'/) })
  })
})
