// The libraries of llama.cpp that node-llama-cpp ships, and the headers of the same release, which it ships as the
// source's git bundle.
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { here, run } from './native_module.mjs'

const packages = path.join(here, 'node_modules')

/** Headers go to `folder`/include and `folder`/ggml/include. */
export function nodeLlamaCpp(folder) {
  const platform = `linux-${process.arch}`
  const libraries = path.join(packages, '@node-llama-cpp', platform, 'bins', platform)
  if (!existsSync(libraries))
    throw new Error('llama.cpp is missing: npm install --ignore-scripts --prefix bench')
  if (!existsSync(path.join(folder, 'ggml'))) {
    mkdirSync(folder, { recursive: true })
    const bundle = path.join(packages, 'node-llama-cpp', 'llama', 'gitRelease.bundle')
    const git = path.join(folder, 'llama.git')
    run('git', ['clone', '--quiet', '--bare', bundle, git])
    const archive = ['archive', '--output', path.join(folder, 'headers.tar')]
    run('git', ['-C', git, ...archive, 'HEAD', 'include', 'ggml/include'])
    run('tar', ['-xf', 'headers.tar'], { cwd: folder })
  }
  const names = readdirSync(libraries).filter((name) =>
    /^lib(llama|ggml)(-base)?(\.v[\d.]+)?\.so$/.test(name),
  )
  const { release } = JSON.parse(
    readFileSync(path.join(packages, 'node-llama-cpp', 'llama', 'binariesGithubRelease.json'), 'utf8'),
  )
  return {
    release,
    libraries,
    compile: ['include', 'ggml/include'].map((include) => `-I${path.join(folder, include)}`),
    link: [`-L${libraries}`, ...names.map((name) => `-l:${name}`), '-lm', `-Wl,-rpath,${libraries}`],
  }
}

/** Which of the shipped processor backends this process has loaded: ggml chooses by the processor's features. */
export function loadedKernels() {
  const [, name] = /libggml-cpu-(\w+)\.so/.exec(readFileSync('/proc/self/maps', 'utf8')) ?? []
  return name ?? 'none'
}
