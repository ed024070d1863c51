/** Caches of sequences that have ended, for prompts that begin with the same tokens. */
import type { NativeKvCache } from '../native/addon.js'

export interface FilledCache {
  cache: NativeKvCache
  /** The tokens whose keys and values it holds. */
  cached: ArrayLike<number>
}

export function commonPrefix(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const most = Math.min(a.length, b.length)
  let length = 0
  while (length < most && a[length] === b[length]) length++
  return length
}

/** The one of the caches that shares most with the beginning of the tokens, and how much. */
export function longestPrefix(
  caches: Iterable<FilledCache>,
  tokens: ArrayLike<number>,
): { source: FilledCache; length: number } | null {
  let best: { source: FilledCache; length: number } | null = null
  for (const source of caches) {
    const length = commonPrefix(source.cached, tokens)
    if (length > (best?.length ?? 0)) best = { source, length }
  }
  return best
}

/** At most so many, the last used last. */
export class PrefixCaches implements Iterable<FilledCache> {
  #caches: FilledCache[] = []

  constructor(private readonly most: number) {}

  get size(): number {
    return this.#caches.length
  }

  [Symbol.iterator](): Iterator<FilledCache> {
    return this.#caches.values()
  }

  /** Takes the cache over. Those that hold no more than its beginning are of no use any longer. */
  keep(added: FilledCache): void {
    const isBeginning = ({ cached }: FilledCache) => commonPrefix(cached, added.cached) === cached.length
    this.#drop(isBeginning)
    this.#caches.push(added)
    if (this.#caches.length > this.most) this.#caches.shift()!.cache.dispose()
  }

  /** Marks a cache as used last. */
  touch(used: FilledCache): void {
    const index = this.#caches.indexOf(used)
    if (index >= 0) this.#caches.push(...this.#caches.splice(index, 1))
  }

  clear(): void {
    this.#drop(() => true)
  }

  #drop(isUseless: (cache: FilledCache) => boolean): void {
    for (const filled of this.#caches) if (isUseless(filled)) filled.cache.dispose()
    this.#caches = this.#caches.filter((filled) => !isUseless(filled))
  }
}
