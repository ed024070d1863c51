import { readFileSync } from 'node:fs'
import path from 'node:path'
import { packageRoot } from './native/addon.js'

let version: string | undefined

/** The version in package.json. */
export function packageVersion(): string {
  version ??= JSON.parse(readFileSync(path.join(packageRoot(), 'package.json'), 'utf8')).version as string
  return version
}
