/** Programs that load the addon by themselves: other processes, with limits, and worker threads. */
import { execFileSync, spawnSync } from 'node:child_process'
import { packageRoot } from '../../lib/native/addon.js'

/** `native` is the addon, whose errors are of a class of this environment. */
const PRELUDE = `
const native = require(require.resolve('node-gyp-build', { paths: [${JSON.stringify(packageRoot())}] }))(${JSON.stringify(packageRoot())})
class LocalError extends Error {
  constructor(code, message, details) { super(message); Object.assign(this, { code, ...details }) }
}
native.setErrorFactory((code, message, details) => new LocalError(code, message, details))
const caught = async (body) => {
  try { await body() } catch (e) { return { local: e instanceof LocalError, code: e.code, message: e.message, parameter: e.parameter } }
}
`

export interface Caught {
  local: boolean
  code: string
  message: string
  parameter?: string
}

/** Runs the body of an async function in a process of its own; what it returns, through JSON. */
export function runChild<T>(body: string, env: Record<string, string> = {}): T {
  const script = `${PRELUDE};(async () => {${body}})().then((v) => console.log(JSON.stringify(v)))`
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, ['-e', script], {
    encoding: 'utf8',
    env: { ...process.env, ...env },
  })
  if (status !== 0) throw new Error(`The child ended with ${signal ?? status}: ${stderr}`)
  return JSON.parse(stdout) as T
}

/** The source of a worker thread with the same `native`; `post` sends to its parent. */
export function workerSource(body: string): string {
  const post = "const post = (v) => require('node:worker_threads').parentPort.postMessage(v)"
  return `${PRELUDE};${post};(async () => {${body}})()`
}

export function hasProgram(name: string): boolean {
  try {
    execFileSync(name, ['--version'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}
