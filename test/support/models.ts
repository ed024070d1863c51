import { existsSync } from 'node:fs'
import path from 'node:path'
import { packageRoot } from '../../lib/native/addon.js'

export const demo = path.join(packageRoot(), 'models', 'demo')

/** A path in the folder of large models and data beside the package; says aloud when it is not there. */
export function sharedPath(...parts: string[]): string | null {
  const found = [path.join(packageRoot(), '..', 'shared', ...parts)].find(existsSync) ?? null
  if (!found) console.warn(`skipped: ../shared/${parts.join('/')} is not here`)
  return found
}
