import { readFileSync } from 'node:fs'
import path from 'node:path'
import ts from 'typescript'
import { expect, it } from 'vitest'
import { slimllmProgram } from '../lib/cli/program.js'
import { packageRoot } from '../lib/native/addon.js'

const root = packageRoot()
const read = (name: string) => readFileSync(path.join(root, name), 'utf8')
const codeOf = (markdown: string) =>
  [...markdown.matchAll(/```[\s\S]*?```|`[^`\n]+`/g)].map(([code]) => code).join('\n')
const mentions = (code: string, name: string) => new RegExp(`(?<![\\w-])${name}(?![\\w-])`).test(code)

/** A program of the library and of files that exist in memory only. */
function programOf(files: Record<string, string>): ts.Program {
  const { config } = ts.readConfigFile(path.join(root, 'tsconfig.json'), ts.sys.readFile)
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root)
  const index = path.join(root, 'lib', 'index.ts')
  const settings = { ...options, noUnusedLocals: false, paths: { slimllm: [index] } }
  const host = ts.createCompilerHost(settings)
  const { readFile, fileExists, getSourceFile } = host
  host.readFile = (name) => files[name] ?? readFile(name)
  host.fileExists = (name) => name in files || fileExists(name)
  host.getSourceFile = (name, language, ...rest) =>
    name in files
      ? ts.createSourceFile(name, files[name]!, language)
      : getSourceFile.call(host, name, language, ...rest)
  return ts.createProgram([index, ...Object.keys(files)], settings, host)
}

it('docs/api.md mentions every export, and every field of the options', () => {
  const program = programOf({})
  const checker = program.getTypeChecker()
  const module = checker.getSymbolAtLocation(program.getSourceFile(path.join(root, 'lib', 'index.ts'))!)!
  const code = codeOf(read('docs/api.md'))
  const names = checker.getExportsOfModule(module).flatMap((symbol) => {
    const declared = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol
    const isOptions = symbol.name.endsWith('Options') || symbol.name === 'LayerOverride'
    const fields = isOptions ? checker.getDeclaredTypeOfSymbol(declared).getProperties() : []
    return [symbol.name, ...fields.map((field) => field.name)]
  })
  expect(names.length).toBeGreaterThan(90)
  expect(names.filter((name) => !mentions(code, name))).toEqual([])
})

it('the TypeScript examples of README.md and docs compile', () => {
  const examples = ['README.md', 'docs/api.md'].flatMap((name) =>
    [...read(name).matchAll(/```ts\n([\s\S]*?)```/g)].map(
      ([, code], i) => [path.join(root, 'test', `${path.basename(name)}.${i}.ts`), code!] as const,
    ),
  )
  expect(examples.length).toBeGreaterThan(7)
  const program = programOf(Object.fromEntries(examples))
  const problems = examples.flatMap(([name]) => {
    const source = program.getSourceFile(name)!
    return [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)]
  })
  expect(problems.map(({ file, messageText }) => [file?.fileName, messageText])).toEqual([])
})

it('docs/cli.md has every subcommand with every flag, and no other', () => {
  const sections = new Map(
    read('docs/cli.md')
      .split('\n## slimllm ')
      .slice(1)
      .map((text) => [text.split('\n')[0]!, text]),
  )
  const { commands } = slimllmProgram()
  expect([...sections.keys()]).toEqual(commands.map((command) => command.name()))
  for (const command of commands) {
    const documented = [...sections.get(command.name())!.matchAll(/^\| `(--[^`]+)`/gm)].map(
      ([, flag]) => flag,
    )
    expect(documented).toEqual(command.options.map((option) => option.flags))
    expect(sections.get(command.name())).toContain(`slimllm ${command.name()}`)
  }
})
