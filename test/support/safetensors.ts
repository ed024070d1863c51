import { writeFileSync } from 'node:fs'

/** A safetensors file of exactly these parts, however wrong they are. */
export function writeRawSafetensors(
  file: string,
  header: object | string,
  data: Uint8Array | number = 0,
  headerLength?: bigint,
): string {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(headerLength ?? BigInt(json.length))
  writeFileSync(file, Buffer.concat([length, json, typeof data === 'number' ? Buffer.alloc(data) : data]))
  return file
}
