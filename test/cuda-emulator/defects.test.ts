// Every defect that the emulator knows, in a kernel written to have it, beside a twin that runs clean.
import { existsSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Bench, buffer, buildTimeout, withoutNvcc } from './support.js'

const folder = path.join(path.dirname(fileURLToPath(import.meta.url)), 'defects')

interface Case {
  source: string
  kernel: string
  /** Lines between the module's load and the launch; buffers x, y, c. */
  before?: (bench: Bench) => string[]
  /** Grid, block, dynamic shared memory, arguments. */
  launch: string
  /** What is found (one of the kinds); a sound kernel has none. */
  finding?: { kinds: string[]; code: number; text: RegExp }
}

const floats = (count: number) => Float32Array.from({ length: count }, (_, i) => i)
const y64 = () => ['allocate y 256']
const x64y64 = (bench: Bench) => [...buffer(bench, 'x', floats(256)), 'allocate y 256']
const found = (kind: string, code: number, text: RegExp) => ({ kinds: kind.split(' or '), code, text })
const block = (threads: number, args = '@y') => `1 1 1 ${threads} 1 1 0 ${args}`

const illegal = 700
const misaligned = 716
const failed = 719

const cases: Case[] = [
  { source: 'global_bounds', kernel: 'sound', before: y64, launch: block(64, '@y s32:64') },
  {
    source: 'global_bounds',
    kernel: 'defect',
    before: () => ['allocate y 160'],
    launch: block(64, '@y s32:40'),
    finding: found(
      'global-bounds',
      illegal,
      /warp 1, lane 8, PTX line \d+ `.*st\.global\.f32.*out of bounds write of 4 bytes.*0 bytes past the end of the allocation of 160 bytes/,
    ),
  },
  {
    source: 'freed',
    kernel: 'reader',
    before: (bench) => [...x64y64(bench), 'allocate z 1024', 'free z'],
    launch: block(32, '@x @y'),
  },
  {
    source: 'freed',
    kernel: 'reader',
    before: (bench) => [...x64y64(bench), 'allocate z 1024', 'free x'],
    launch: block(32, '@x @y'),
    finding: found('global-bounds', illegal, /byte 0 of an allocation of 1024 bytes that was freed/),
  },
  {
    source: 'freed',
    kernel: 'reader',
    before: y64,
    launch: block(32, 'u64:0 @y'),
    finding: found('global-bounds', illegal, /a null pointer/),
  },
  { source: 'misaligned', kernel: 'sound', before: x64y64, launch: block(32, '@x @y') },
  {
    source: 'misaligned',
    kernel: 'defect',
    before: x64y64,
    launch: block(32, '@x @y'),
    finding: found('misaligned', misaligned, /misaligned read of 16 bytes of global memory/),
  },
  {
    source: 'misaligned',
    kernel: 'defectShared',
    before: y64,
    launch: block(32),
    finding: found('misaligned', misaligned, /lane 1,.*misaligned read of 8 bytes of shared memory/),
  },
  { source: 'shared_bounds', kernel: 'sound', before: y64, launch: '1 1 1 32 1 1 128 @y' },
  {
    source: 'shared_bounds',
    kernel: 'defect',
    before: y64,
    launch: '1 1 1 32 1 1 128 @y',
    finding: found('shared-bounds', illegal, /lane 31,.*0 static and 128 dynamic/),
  },
  { source: 'local_bounds', kernel: 'sound', before: y64, launch: block(32, '@y s32:7') },
  {
    source: 'local_bounds',
    kernel: 'defect',
    before: y64,
    launch: block(32, '@y s32:7'),
    finding: found('local-bounds', illegal, /read of 4 bytes of local memory at 0x20; a thread has 32 bytes/),
  },
  { source: 'param_bounds', kernel: 'sound', before: y64, launch: block(1) },
  {
    source: 'param_bounds',
    kernel: 'defect',
    before: y64,
    launch: block(1),
    finding: found('param-bounds', illegal, /read of 4 bytes of the parameters at 0x8, of which there are 8/),
  },
  { source: 'shared_unwritten', kernel: 'sound', before: y64, launch: block(32) },
  {
    source: 'shared_unwritten',
    kernel: 'defect',
    before: y64,
    launch: block(32),
    finding: found('shared-unwritten', failed, /lane 31,.*that nothing has written/),
  },
  { source: 'global_unwritten', kernel: 'sound', before: x64y64, launch: block(32, '@x @y') },
  {
    source: 'global_unwritten',
    kernel: 'defect',
    before: (bench) => ['allocate x 256', `write x ${bench.file(floats(32))}`, 'allocate y 256'],
    launch: block(32, '@x @y'),
    finding: found('global-unwritten', failed, /lane 16,.*byte 128 of an allocation of 256 bytes/),
  },
  ...['sound', 'soundWriteAfterRead', 'soundBytes', 'soundAtomics', 'soundNamed'].map((kernel) => ({
    source: 'shared_race',
    kernel,
    before: y64,
    launch: block(64),
  })),
  {
    source: 'shared_race',
    kernel: 'defect',
    before: y64,
    launch: block(64),
    finding: found('shared-race', failed, /warp \d (read|wrote) it and no barrier/),
  },
  {
    source: 'shared_race',
    kernel: 'defectWriteAfterRead',
    before: y64,
    launch: block(64),
    finding: found('shared-race', failed, /warp \d (read|wrote) it and no barrier/),
  },
  {
    source: 'shared_race',
    kernel: 'defectBytes',
    before: y64,
    launch: block(64),
    finding: found('shared-race', failed, /warp \d wrote it/),
  },
  {
    source: 'shared_race',
    kernel: 'defectAtomics',
    before: y64,
    launch: block(64),
    finding: found('shared-race', failed, /warp \d (wrote|read) it/),
  },
  {
    source: 'shared_race',
    kernel: 'defectNamed',
    before: y64,
    launch: block(64),
    finding: found('shared-race', failed, /race between warps/),
  },
  { source: 'global_race', kernel: 'sound', before: y64, launch: '2 1 1 32 1 1 0 @y' },
  { source: 'global_race', kernel: 'soundHalves', before: y64, launch: '2 1 1 32 1 1 0 @y' },
  {
    source: 'global_race',
    kernel: 'soundAtomics',
    before: () => ['allocate y 256', 'fill y 0'],
    launch: '4 1 1 32 1 1 0 @y',
  },
  {
    source: 'global_race',
    kernel: 'defect',
    before: y64,
    launch: '2 1 1 32 1 1 0 @y',
    finding: found('global-race', failed, /CTA \(1,0,0\).*race between CTAs.*CTA 0 wrote it/),
  },
  {
    source: 'global_race',
    kernel: 'defectRead',
    before: (bench) => buffer(bench, 'y', floats(64)),
    launch: '2 1 1 32 1 1 0 @y',
    finding: found('global-race', failed, /CTA 0 (read|wrote) it/),
  },
  {
    source: 'global_race',
    kernel: 'defectFlag',
    before: y64,
    launch: '2 1 1 32 1 1 0 @y',
    finding: found('global-race', failed, /CTA \(1,0,0\).*CTA 0 wrote it/),
  },
  ...['soundLast', 'defectLast'].map((kernel) => ({
    source: 'global_race',
    kernel,
    before: () => ['allocate y 512', 'allocate c 4', 'fill c 0', 'allocate x 4'],
    launch: '4 1 1 32 1 1 0 @y @c @x',
    ...(kernel === 'defectLast' && {
      finding: found('global-race', failed, /CTA \(3,0,0\).*CTA 0 wrote it/),
    }),
  })),
  ...['sound', 'soundBarrier', 'soundStages'].map((kernel) => ({
    source: 'async_copy',
    kernel,
    before: x64y64,
    launch: block(64, '@x @y'),
  })),
  {
    source: 'async_copy',
    kernel: 'defect',
    before: x64y64,
    launch: block(64, '@x @y'),
    finding: found('async-copy', failed, /cp\.async is still filling/),
  },
  {
    // Which of the three depends on how far the other warp is: before its copy, before its wait, or after.
    source: 'async_copy',
    kernel: 'defectBarrier',
    before: x64y64,
    launch: block(64, '@x @y'),
    finding: found(
      'shared-unwritten or async-copy or shared-race',
      failed,
      /that nothing has written|cp\.async is still filling|warp [01] wrote it and no barrier/,
    ),
  },
  {
    source: 'async_copy',
    kernel: 'defectStages',
    before: x64y64,
    launch: block(64, '@x @y'),
    finding: found('async-copy', failed, /cp\.async is still filling/),
  },
  {
    source: 'async_copy',
    kernel: 'sound',
    before: () => ['allocate x 1024', 'allocate y 256'],
    launch: block(64, '@x @y'),
    finding: found('global-unwritten', failed, /cp\.async/),
  },
  ...['sound', 'soundExit', 'soundNumber'].map((kernel) => ({
    source: 'barrier',
    kernel,
    before: y64,
    launch: block(64),
  })),
  { source: 'barrier', kernel: 'soundReturn', before: y64, launch: block(64, '@y s32:0') },
  {
    source: 'barrier',
    kernel: 'defectNumber',
    before: y64,
    launch: block(64),
    finding: found('barrier-id', failed, /barrier 16 where 0 to 15 exist/),
  },
  {
    source: 'barrier',
    kernel: 'defectLanes',
    before: y64,
    launch: block(64),
    finding: found('divergent-barrier', failed, /divergent barrier.*lanes [01],[23],[45].*have not exited/),
  },
  {
    source: 'barrier',
    kernel: 'defectStuck',
    before: y64,
    launch: block(64),
    finding: found('stuck-barrier', failed, /warp 1 at barrier 1 .*32 of 64 threads/),
  },
  {
    source: 'barrier',
    kernel: 'defectCount',
    before: y64,
    launch: block(64),
    finding: found('barrier-count', failed, /48 threads, not a multiple of 32/),
  },
  ...['soundShuffle', 'soundVote', 'soundExited', 'soundReturn'].map((kernel) => ({
    source: 'warp_mask',
    kernel,
    before: y64,
    launch: block(32),
  })),
  {
    source: 'warp_mask',
    kernel: 'defectShuffle',
    before: y64,
    launch: block(32),
    finding: found('warp-mask', failed, /0xffffffff names lanes 16-31, which are elsewhere/),
  },
  {
    source: 'warp_mask',
    kernel: 'defectSource',
    before: y64,
    launch: block(32),
    finding: found('warp-mask', failed, /reads from lane 16, which does not take part/),
  },
  {
    source: 'warp_mask',
    kernel: 'defectVote',
    before: y64,
    launch: block(32),
    finding: found('warp-mask', failed, /names lanes 16-31/),
  },
  {
    source: 'warp_mask',
    kernel: 'defectUnnamed',
    before: y64,
    launch: block(32),
    finding: found('warp-mask', failed, /lanes 16-31,.*does not name/),
  },
  { source: 'trap', kernel: 'sound', before: y64, launch: block(32) },
  {
    source: 'trap',
    kernel: 'defect',
    before: y64,
    launch: block(32),
    finding: found('trap', failed, /lane 31,.*trap/),
  },
  { source: 'branch_index', kernel: 'sound', before: y64, launch: block(32) },
  {
    source: 'branch_index',
    kernel: 'defect',
    before: y64,
    launch: block(32),
    finding: found('branch-index', failed, /lanes 3,7,.*index 3 of a table of 3 targets/),
  },
  {
    source: 'launch',
    kernel: 'endless',
    before: () => ['allocate y 4', 'fill y 0'],
    launch: block(32),
    finding: found('no-end', failed, /does not end/),
  },
]

describe.skipIf(withoutNvcc)('defects', () => {
  let bench: Bench
  const modules = new Map<string, Promise<string>>()
  /** A defect that nvcc does not emit is written in PTX. */
  const module = (source: string) => {
    const ptx = path.join(folder, `${source}.ptx`)
    if (existsSync(ptx)) return ptx
    if (!modules.has(source)) modules.set(source, bench.compile(path.join(folder, `${source}.cu`)))
    return modules.get(source)!
  }
  beforeAll(async () => {
    bench = await Bench.open()
  }, buildTimeout)
  afterAll(() => bench.close())

  it.each(
    cases.map(
      (c) =>
        [
          `${c.source}: ${c.kernel}${c.finding ? ` has ${c.finding.kinds.join(' or ')}` : ' is sound'}`,
          c,
        ] as const,
    ),
  )('%s', async (_, { source, kernel, before, launch, finding }) => {
    const start = ['device 0', `module ${await module(source)}`, ...(before?.(bench) ?? [])]
    for (const seed of ['1', '2', '3']) {
      const { outcomes, findings, last } = await bench.run([...start, `launch ${kernel} ${launch}`], {
        SLIM_EMULATOR_SEED: seed,
        SLIM_EMULATOR_LIMIT: '100000',
      })
      expect(outcomes.slice(0, -1).filter((o) => o.error !== 0)).toEqual([])
      const inKernel = findings.filter((f) => f.kind !== 'leak')
      if (finding === undefined) {
        expect(last.text).toBe('')
        expect(inKernel).toEqual([])
      } else {
        expect(last.text).toMatch(finding.text)
        expect(last.text).toContain(`kernel ${kernel}`)
        expect(last.error).toBe(finding.code)
        expect(inKernel).toHaveLength(1)
        expect(finding.kinds).toContain(inKernel[0]!.kind)
      }
    }
  })

  it('an instruction that is not known is an error of the kernel that has it, and of no other', async () => {
    const start = ['device 0', `module ${await module('unknown_instruction')}`, 'allocate y 4']
    const { outcomes } = await bench.run([...start, 'function sound', 'function defect'])
    expect(outcomes.map((o) => o.error)).toEqual([0, 0, 0, 0, 218])
    expect(outcomes[4]!.text).toMatch(
      /kernel defect: PTX line \d+ `mbarrier\.init.*does not know this instruction/,
    )
  })

  it.each([
    ['cvt.rn.satfinite.f16.f32 %h, 0f3F800000;', /with \.satfinite/],
    ['mov.u32 %i, %clusterid.x;', /unknown name %clusterid\.x/],
    ['cvt.rn.tf32.f32 %i, 0f3F800000;', /not an instruction that the emulator knows/],
  ])('%s is an error, not taken for something else', async (instruction, text) => {
    const kernel = `.visible .entry k() { .reg .b32 %i; .reg .b16 %h; ${instruction} ret; }`
    const module = bench.file(`.version 9.0\n.target sm_80\n.address_size 64\n${kernel}\n`, 'ptx')
    const { last } = await bench.run(['device 0', `module ${module}`, 'function k'])
    expect(last).toMatchObject({ error: 218, text: expect.stringMatching(text) })
  })

  it('what the device holds when its context is released is a leak', async () => {
    const start = ['device 0', `module ${await module('launch')}`, 'allocate x 100', 'allocate y 50']
    const leaking = await bench.run([...start, 'free x', 'unload', 'release'])
    expect(leaking.last).toMatchObject({
      error: failed,
      text: expect.stringMatching(/1 allocation of 50 bytes/),
    })
    expect(leaking.findings.map((f) => f.kind)).toEqual(['leak'])
    const clean = await bench.run([...start, 'free x', 'free y', 'unload', 'release'])
    expect(clean.last.error).toBe(0)
    expect(clean.findings).toEqual([])
    const never = await bench.run([...start, 'free x', 'unload'])
    expect(never.findings.map((f) => f.kind)).toEqual(['leak'])
    const host = await bench.run([
      ...start.slice(0, 2),
      'allocateHost h 9',
      'allocateHost g 9',
      'freeHost g',
      'unload',
      'release',
    ])
    expect(host.last.text).toMatch(/1 pieces? of pinned host memory never freed/)
    expect(never.stderr).toMatch(/end of the process: 1 allocation of 50 bytes/)
  })

  it('a launch with a wrong number or size of arguments is refused', async () => {
    const start = ['device 0', `module ${await module('launch')}`, 'allocate y 4096']
    const launches = ['@y', '@y s32:1 s32:2', 's32:1 s32:2', '@y u64:1'].map(
      (args) => `launch unbounded ${block(32, args)}`,
    )
    const { outcomes, findings } = await bench.run([
      ...start,
      ...launches,
      `launch unbounded ${block(32, '@y s32:1')}`,
    ])
    expect(outcomes.slice(3).map((o) => o.error)).toEqual([1, 1, 1, 1, 0])
    expect(outcomes[3]!.text).toMatch(
      /2 arguments of 12 bytes in all \(bytes at offset: 8@0 4@8\) but the launch passes 8 bytes/,
    )
    expect(findings.filter((f) => f.kind === 'arguments')).toHaveLength(4)
  })

  it('a launch beyond the limits of the device is refused', async () => {
    const start = ['device 0', `module ${await module('launch')}`, 'allocate y 8192']
    const refused = async (line: string, text: RegExp, environment = {}) => {
      const { last, findings } = await bench.run([...start, ...line.split(';')], environment)
      expect(last.text).toMatch(text)
      expect(last.error).toBe(1)
      return findings
    }
    await refused('launch unbounded 0 1 1 32 1 1 0 @y s32:1', /grid\.x is 0/)
    await refused('launch unbounded 1 65536 1 32 1 1 0 @y s32:1', /grid\.y is 65536/)
    await refused('launch unbounded 1 1 1 32 1 0 0 @y s32:1', /block\.z is 0/)
    await refused('launch unbounded 1 1 1 32 33 1 0 @y s32:1', /1056 threads a block/)
    await refused('launch bounded 1 1 1 160 1 1 0 @y s32:1', /__launch_bounds__ allow 128/)
    await refused('launch tiled 1 1 1 32 1 1 45060 @y', /4096 bytes of static and 45060 of dynamic/)
    await refused('dynamic tiled 162817', /at most 166912/)
    await refused('dynamic tiled 228353', /at most 232448/, { SLIM_EMULATOR_CC: '90' })
    const large = await bench.run([...start, 'dynamic tiled 162816', 'launch tiled 1 1 1 32 1 1 162816 @y'])
    expect(large.last.text).toBe('')
  })
})
