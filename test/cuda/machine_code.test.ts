/**
 * Instructions a weight in the loops of packed products of few tokens, counted in the machine code that ptxas makes for
 * groups of 128. Opcodes and branches as in the encoding of Volta and later: 128 bits an instruction, the opcode in the
 * lowest 12.
 */
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { packageRoot } from '../../lib/native/addon.js'
import { nvcc, withoutNvcc } from '../cuda-emulator/support.js'
import { temporaryFolder } from '../support/temporary.js'

const BRA = 0x947
const HMMA = 0x23c
const INSTRUCTION_BYTES = 16
/** Of mma.m16n8k16, whose A operand they are, in a lane. */
const WEIGHTS_OF_MMA = (16 * 16) / 32
/** Two loops a width: batches of units, and what is left of them; 8 bits have one. */
const LOOPS = [1, 1, 2, 2, 3, 3, 4, 4, 8]
/** Of the loops over batches: the goals in docs/benchmarks.md. */
const GOALS = { 2: 1.2, 3: 1.8 }

const folder = temporaryFolder()

function compile(architecture: string): Buffer {
  const [source, cubin] = ['cu', 'cubin'].map((ending) => path.join(folder, `${architecture}.${ending}`))
  writeFileSync(source!, '#include "cuda/kernels/packed_gemv.cuh"\n')
  const options = ['-cubin', '-O3', '-std=c++17', '-Inative', `-arch=${architecture}`, '-o', cubin!, source!]
  execFileSync(nvcc!, options, { cwd: packageRoot() })
  return readFileSync(cubin!)
}

/** The sections of an ELF file of 64 bits: their bytes by name. */
function sections(elf: Buffer): Map<string, Buffer> {
  const table = Number(elf.readBigUInt64LE(0x28))
  const [size, count, names] = [0x3a, 0x3c, 0x3e].map((at) => elf.readUInt16LE(at))
  const headers = Array.from({ length: count! }, (_, i) => elf.subarray(table + i * size!))
  const bytes = (header: Buffer) => {
    const [offset, length] = [0x18, 0x20].map((at) => Number(header.readBigUInt64LE(at)))
    return elf.subarray(offset, offset! + length!)
  }
  const strings = bytes(headers[names!]!)
  const nameOf = (header: Buffer) => {
    const start = header.readUInt32LE(0)
    return strings.toString('latin1', start, strings.indexOf(0, start))
  }
  return new Map(headers.map((header) => [nameOf(header), bytes(header)]))
}

/** Of every innermost loop with matrix products, in the order of the code: instructions a weight. */
function costs(code: Buffer): number[] {
  const low = Array.from({ length: code.length / INSTRUCTION_BYTES }, (_, i) =>
    code.readBigUInt64LE(i * INSTRUCTION_BYTES),
  )
  const opcode = (i: number) => Number(low[i]! & 0xfffn)
  /** In instructions: words of four bytes from the next one on, whose lowest 8 bits lie apart on sm_90. */
  const target = (i: number) => {
    const [high, lowest] = [BigInt.asIntN(30, low[i]! >> 34n), (low[i]! >> 16n) & 0xffn]
    const words = isHopper(low) ? high * 256n + lowest : high
    return i + 1 + Number(words) / 4
  }
  const loops = low
    .map((_, i) => ({ from: opcode(i) === BRA ? target(i) : Number.NaN, to: i }))
    .filter(({ from, to }) => from <= to)
    .map(({ from, to }) => {
      const products = low.slice(from, to + 1).filter((_, i) => opcode(from + i) === HMMA).length
      return { from, to, products, cost: (to + 1 - from) / (products * WEIGHTS_OF_MMA) }
    })
    .filter(({ products }) => products > 0)
  const isInnermost = (one: { from: number; to: number }) =>
    !loops.some((other) => other !== one && one.from <= other.from && other.to <= one.to)
  return loops.filter(isInnermost).map(({ cost }) => cost)
}

/** A kernel ends with a branch to itself: −4 words, all of it in one field, or cut after 8 bits. */
function isHopper(low: bigint[]): boolean {
  const last = low.findLast((word) => (word & 0xfffn) === BigInt(BRA))!
  return (last >> 16n) % 256n === 0xfcn
}

describe.skipIf(withoutNvcc).each(['sm_80', 'sm_90a'])('the machine code for %s', (architecture) => {
  it('has the goals’ instructions a weight', () => {
    const found = sections(compile(architecture))
    for (const tokens of [1, 4, 8]) {
      const loops = costs(found.get(`.text.packedGemv${tokens}x1`)!)
      expect(loops).toHaveLength(LOOPS.length)
      for (const [bits, most] of Object.entries(GOALS))
        expect(loops[LOOPS.indexOf(Number(bits))], `${bits} bits, ${tokens} tokens`).toBeLessThanOrEqual(most)
    }
  })
})
