// Builds the addon with node-gyp into build/Release (or, with --prebuild, with prebuildify into prebuilds/).
// Node's own headers are used where they lie beside its binary, so that nothing is downloaded.
import { spawnSync } from 'node:child_process'
import { existsSync, realpathSync } from 'node:fs'
import { createRequire } from 'node:module'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)))
const prefix = path.dirname(path.dirname(process.execPath))
const env = { ...process.env }
if (existsSync(path.join(prefix, 'include', 'node', 'node_api.h'))) env.npm_config_nodedir = prefix

// A development dependency here; where the package is installed, the one that npm brings along.
function nodeGyp() {
  const npm = process.env.npm_execpath ?? path.join(path.dirname(process.execPath), 'npm')
  const npmCopies = [path.join(prefix, 'lib', 'node_modules', 'npm')]
  if (existsSync(npm)) npmCopies.unshift(path.dirname(path.dirname(realpathSync(npm))))
  try {
    return createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js', { paths: [root, ...npmCopies] })
  } catch {
    console.error('There is no node-gyp to build the addon with: npm install --save-dev node-gyp')
    process.exit(1)
  }
}

const [tool, args] = process.argv.includes('--prebuild')
  ? [
      createRequire(import.meta.url).resolve('prebuildify/bin.js'),
      ['--napi', '--strip', '--target', process.versions.node],
    ]
  : [nodeGyp(), ['rebuild', '--jobs', String(os.availableParallelism()), ...process.argv.slice(2)]]
const { status } = spawnSync(process.execPath, [tool, ...args], { cwd: root, stdio: 'inherit', env })
process.exit(status ?? 1)
