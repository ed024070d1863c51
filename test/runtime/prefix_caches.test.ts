import { expect, it } from 'vitest'
import { commonPrefix, longestPrefix, PrefixCaches } from '../../lib/runtime/prefix_caches.js'

function filled(...cached: number[]) {
  const state = { disposed: false }
  const cache = { dispose: () => (state.disposed = true) }
  return { cache: cache as never, cached, state }
}

it('finds the cache that shares most', () => {
  expect(commonPrefix([1, 2, 3], [1, 2, 4])).toBe(2)
  expect(commonPrefix([], [1])).toBe(0)
  const caches = [filled(1), filled(1, 2, 9), filled(1, 2, 3, 4), filled(2, 1)]
  expect(longestPrefix(caches, [1, 2, 3, 5])).toEqual({ source: caches[2], length: 3 })
  expect(longestPrefix(caches, [7])).toBeNull()
})

it('keeps the last used, and none that another one contains', () => {
  const kept = new PrefixCaches(2)
  const [a, b, c, d] = [filled(1, 2), filled(3), filled(1, 2, 3), filled(4)]
  kept.keep(a)
  kept.keep(b)
  kept.touch(a)
  kept.keep(c)
  expect([...kept]).toEqual([b, c])
  expect([a, b, c].map(({ state }) => state.disposed)).toEqual([true, false, false])
  kept.touch(b)
  kept.keep(d)
  expect([...kept]).toEqual([b, d])
  expect(c.state.disposed).toBe(true)
  kept.clear()
  expect(kept.size).toBe(0)
  expect([b, d].map(({ state }) => state.disposed)).toEqual([true, true])
})
