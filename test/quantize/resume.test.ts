import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { packageRoot } from '../../lib/native/addon.js'
import { calibrationFile, contentHashes, demo } from '../support/demo.js'
import { temporaryFolder } from '../support/temporary.js'

const folder = temporaryFolder()
const cli = path.join(packageRoot(), 'dist', 'cli', 'main.js')
const args = (output: string) => [
  ...[cli, 'quantize', demo, '--output', output, '--method', 'slim', '--bits', '2', '--group-size', '32'],
  ...['--calibration', calibrationFile, '--samples', '16', '--seq-len', '256', '--threads', '2', '--json'],
]

let seconds: number
const whole = path.join(folder, 'whole')
beforeAll(() => {
  if (!existsSync(cli)) throw new Error('dist/ is not built: run `npm run build` first')
  const run = spawnSync(process.execPath, args(whole), { encoding: 'utf8' })
  expect(run.stderr).toBe('')
  expect(run.status).toBe(0)
  seconds = JSON.parse(run.stdout.trim().split('\n').at(-1)!).seconds
})

/** Kills the run with SIGKILL after `delay` milliseconds; true if it was still running. */
function killAfter(output: string, delay: number): Promise<boolean> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, args(output), { stdio: 'ignore' })
    const timer = setTimeout(() => child.kill('SIGKILL'), delay)
    child.on('exit', (_, signal) => {
      clearTimeout(timer)
      resolve(signal === 'SIGKILL')
    })
  })
}

describe('a killed run', () => {
  it('killed at ten random moments, ends in the same bytes as an uninterrupted one', async () => {
    let kills = 0
    let resumed = 0
    // A run that goes on where it was may finish before its kill; the next kills then fall on another output.
    for (let output = path.join(folder, 'killed'); kills < 10; output += '-again') {
      const journal = path.join(`${output}.partial`, 'journal.jsonl')
      const shards = () =>
        existsSync(journal) ? readFileSync(journal, 'utf8').trim().split('\n').length - 1 : 0
      while (kills < 10 && !existsSync(output)) {
        // Anywhere from the process's start to the time that a whole run takes.
        if (!(await killAfter(output, 100 + Math.random() * seconds * 1000))) break
        kills++
        if (shards() > 1) resumed++
      }
      if (!existsSync(output)) expect(spawnSync(process.execPath, args(output)).status).toBe(0)
      // Killed in the instant between the last rename and the end, the journal is still there; the next call removes it.
      if (existsSync(path.join(output, 'journal.jsonl'))) spawnSync(process.execPath, args(output))
      expect(contentHashes(output)).toEqual(contentHashes(whole))
      expect(existsSync(`${output}.partial`)).toBe(false)
    }
    expect(kills).toBe(10)
    expect(resumed).toBeGreaterThan(0)
  }, 300_000)

  it('killed while it measures sensitivities, begins anew and ends in the same bytes', async () => {
    const output = path.join(folder, 'sensitivity')
    const child = spawn(process.execPath, args(output), { stdio: ['ignore', 'pipe', 'ignore'] })
    let stdout = ''
    child.stdout.on('data', (chunk) => {
      stdout += chunk
      if (stdout.includes('"block":3,"blocks":6,"phase":"sensitivity"')) child.kill('SIGKILL')
    })
    const signal = await new Promise((resolve) => child.on('exit', (_, signal) => resolve(signal)))
    expect(signal).toBe('SIGKILL')
    expect(stdout).not.toContain('"phase":"calibrate"')
    expect(existsSync(output)).toBe(false)
    const again = spawnSync(process.execPath, args(output), { encoding: 'utf8' })
    expect(again.status).toBe(0)
    expect(again.stdout).toContain('"phase":"sensitivity"')
    expect(contentHashes(output)).toEqual(contentHashes(whole))
  })

  it('with a torn journal line and a damaged shard does those blocks again', async () => {
    const output = path.join(folder, 'torn')
    const partial = `${output}.partial`
    const journal = path.join(partial, 'journal.jsonl')
    const lines = () => (existsSync(journal) ? readFileSync(journal, 'utf8').split('\n') : [])
    const child = spawn(process.execPath, args(output), { stdio: 'ignore' })
    while (lines().length < 6 && child.exitCode === null)
      await new Promise((resolve) => setTimeout(resolve, 5))
    child.kill('SIGKILL')
    await new Promise((resolve) => child.on('exit', resolve))
    const kept = lines()
    writeFileSync(journal, `${kept.slice(0, 5).join('\n')}\n${kept[4]!.slice(0, 40)}`)
    const shard = path.join(partial, JSON.parse(kept[4]!).shard)
    const bytes = readFileSync(shard)
    bytes[bytes.length - 9]! ^= 1
    writeFileSync(shard, bytes)
    expect(spawnSync(process.execPath, args(output)).status).toBe(0)
    expect(contentHashes(output)).toEqual(contentHashes(whole))
  })
})
