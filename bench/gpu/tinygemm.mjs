// tinygemm as a participant of packed.mjs: tinygemm.py in a Python with torch, told what to do line by line.
import { spawn } from 'node:child_process'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { GROUP_SIZE } from './cases.mjs'

export const TINYGEMM = 'tinygemm int4'
const script = path.join(path.dirname(fileURLToPath(import.meta.url)), 'tinygemm.py')

/** The child: { description, ask(command) → answer, close() }. Throws with its words where it cannot take part. */
async function startChild(python) {
  const child = spawn(python, [script], { stdio: ['pipe', 'pipe', 'pipe'] })
  let errors = ''
  child.stderr.on('data', (text) => {
    errors = (errors + text).slice(-2000)
  })
  const ended = new Promise((_, reject) => {
    child.once('error', ({ message }) => reject(new Error(message)))
    child.once('close', (code) =>
      reject(new Error(errors.trim().split('\n').at(-1) || `${python} ended with ${code}`)),
    )
  })
  ended.catch(() => {})
  // A child that has ended reads no more; that is said by `ended`.
  child.stdin.on('error', () => {})
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const answer = async () => {
    const { value, done } = await Promise.race([lines.next(), ended])
    if (done) return ended
    const parsed = JSON.parse(value)
    if (parsed.failure) throw new Error(parsed.failure)
    return parsed
  }
  const ask = (command) => {
    child.stdin.write(`${JSON.stringify(command)}\n`)
    return answer()
  }
  const { description } = await answer()
  return { description, ask, close: () => child.stdin.end() }
}

export async function tinygemmParticipant(python, limits) {
  const { description, ask, close } = await startChild(python)
  return {
    name: TINYGEMM,
    description,
    close,
    make({ cols, rows }) {
      return {
        async product({ tokens }) {
          const { error, bytes } = await ask({
            command: 'make',
            rows,
            cols,
            tokens,
            groupSize: GROUP_SIZE,
            ...limits,
          })
          return {
            bytes,
            turn: async () => (await ask({ command: 'turn' })).seconds,
            error: async () => error,
            dispose() {},
          }
        },
        dispose() {},
      }
    },
  }
}
