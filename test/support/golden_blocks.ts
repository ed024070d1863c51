/** Random GGUF blocks and their values by ggml's own decoder (the file says which). */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { type BlockDType, packageRoot } from '../../lib/native/addon.js'

export interface GoldenBlocks {
  blockElements: number
  blockBytes: number
  bytes: Uint8Array
  values: Float32Array
}

export function goldenBlocks(): [BlockDType, GoldenBlocks][] {
  const file = path.join(packageRoot(), 'test', 'fixtures', 'gguf', 'blocks.json')
  const { types } = JSON.parse(readFileSync(file, 'utf8'))
  const decode = (text: string) => new Uint8Array(Buffer.from(text, 'base64'))
  return Object.keys(types).map((name) => {
    const { blockElements, blockBytes, bytes, float32 } = types[name]
    const values = new Float32Array(decode(float32).slice().buffer)
    return [name as BlockDType, { blockElements, blockBytes, bytes: decode(bytes), values }]
  })
}

/** `count` bytes or values: the given ones over and over. */
export function tiled<T extends Uint8Array | Float32Array>(source: T, count: number): T {
  return source.constructor === Float32Array
    ? (Float32Array.from({ length: count }, (_, i) => source[i % source.length]!) as T)
    : (Uint8Array.from({ length: count }, (_, i) => source[i % source.length]!) as T)
}
