// What two cores of this machine are to each other and to memory, which decides products of some microseconds: the time of
// a cache line from one to the other, the plain read, and the plain read in pieces that both begin and end together, of the
// bytes of 576×1536 by the 2-bit mix, the 3-bit mix and 4 bits. Medians.
//   chrt -f 1 node bench/stream.mjs [rounds]
import { compileModule } from './native_module.mjs'
import { median } from './turns.mjs'

const BYTES = 192 * 2 ** 20
const PIECES = [241349, 350021, 461573]
const THREADS = 2
const stream = compileModule('stream.c', ['-pthread'])
const rounds = Number(process.argv[2] ?? 15)
const medianOf = (measure) => median(Array.from({ length: rounds }, measure))

const whole = medianOf(() => stream.read(BYTES, THREADS))
console.log(`a cache line from core to core: ${(1e9 * medianOf(() => stream.hop())).toFixed(0)} ns`)
console.log(`plain read, ${THREADS} threads: ${(whole / 1e9).toFixed(1)} GB/s`)
for (const bytes of PIECES) {
  const pieces = medianOf(() => stream.read(BYTES, THREADS, bytes))
  console.log(
    `in pieces of ${bytes} bytes: ${(pieces / 1e9).toFixed(1)} GB/s, ${Math.round((100 * pieces) / whole)} %`,
  )
}
