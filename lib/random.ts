/** SplitMix64 (Steele, Lea, Flood 2014): a small seeded generator whose stream is the same on every machine. */
import { SlimError } from './errors.js'

export class SplitMix64 {
  #state: bigint

  /** `parameter` is what an error calls the seed. */
  constructor(seed: number, parameter = 'seed') {
    if (!Number.isSafeInteger(seed)) throw SlimError.invalidArgument(parameter, 'a whole number', seed)
    this.#state = BigInt.asUintN(64, BigInt(seed))
  }

  /** 64 uniform bits. */
  next(): bigint {
    this.#state = BigInt.asUintN(64, this.#state + 0x9e3779b97f4a7c15n)
    let z = this.#state
    z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n)
    z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn)
    return z ^ (z >> 31n)
  }

  /** Uniform in [0, 1), 53 bits. */
  uniform(): number {
    return Number(this.next() >> 11n) / 2 ** 53
  }

  /** Uniform whole number in [0, limit). */
  below(limit: number): number {
    return Math.floor(this.uniform() * limit)
  }
}
