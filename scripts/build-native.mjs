// Builds the addon with node-gyp into build/Release (or, with --prebuild, with prebuildify into prebuilds/).
// Node's own headers lie beside its binary, so nothing is downloaded: nodedir is derived from process.execPath.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import os from 'node:os'
import path from 'node:path'

const require = createRequire(import.meta.url)
const nodedir = path.dirname(path.dirname(process.execPath))
const env = { ...process.env }
if (existsSync(path.join(nodedir, 'include', 'node', 'node_api.h'))) env.npm_config_nodedir = nodedir

const [tool, args] = process.argv.includes('--prebuild')
  ? ['prebuildify/bin.js', ['--napi', '--strip', '--target', process.versions.node]]
  : [
      'node-gyp/bin/node-gyp.js',
      ['rebuild', '--jobs', String(os.availableParallelism()), ...process.argv.slice(2)],
    ]
const { status } = spawnSync(process.execPath, [require.resolve(tool), ...args], { stdio: 'inherit', env })
process.exit(status ?? 1)
