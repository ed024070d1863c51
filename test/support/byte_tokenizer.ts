/** A tokenizer for fixtures without one: every byte is a token. */
import { cpSync, writeFileSync } from 'node:fs'
import path from 'node:path'

/** The characters that byte-level BPE spells the bytes 0 … 255 with. */
export function byteCharacters(): string[] {
  const printable = (b: number) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255)
  let next = 256
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : next++))
}

/** A copy of a model folder whose vocabulary holds 256 tokens or more, with such a tokenizer. */
export function withByteTokenizer(source: string, folder: string): string {
  cpSync(source, folder, { recursive: true })
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false }
  const vocab = Object.fromEntries(byteCharacters().map((character, byte) => [character, byte]))
  writeFileSync(
    path.join(folder, 'tokenizer.json'),
    JSON.stringify({
      version: '1.0',
      added_tokens: [],
      pre_tokenizer: byteLevel,
      decoder: byteLevel,
      model: { type: 'BPE', vocab, merges: [] },
    }),
  )
  return folder
}
