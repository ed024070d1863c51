import path from 'node:path'
import ts from 'typescript'
import { expect, it } from 'vitest'
import { packageRoot } from '../lib/native/addon.js'

it('exports every type that a public signature names', () => {
  const root = packageRoot()
  const index = path.join(root, 'lib', 'index.ts')
  const { config } = ts.readConfigFile(path.join(root, 'tsconfig.json'), ts.sys.readFile)
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root)
  const program = ts.createProgram([index], options)
  const checker = program.getTypeChecker()
  const resolve = (symbol: ts.Symbol) =>
    symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol
  const module = checker.getSymbolAtLocation(program.getSourceFile(index)!)!
  const exported = new Set(checker.getExportsOfModule(module).map(resolve))
  const missing = new Set<string>()

  /** Declarations without the bodies of functions and private members. */
  function visit(node: ts.Node): void {
    if (
      ts.isBlock(node) ||
      (ts.isClassElement(node) && ts.getCombinedModifierFlags(node) & ts.ModifierFlags.Private)
    )
      return
    if (ts.isPropertyDeclaration(node) && ts.isPrivateIdentifier(node.name)) return
    if (ts.isTypeReferenceNode(node)) {
      const type = checker.getSymbolAtLocation(node.typeName)
      const named = type && resolve(type)
      const isOurs = named?.declarations?.some((at) => at.getSourceFile().fileName.startsWith(`${root}/lib/`))
      if (isOurs && !(named!.flags & ts.SymbolFlags.TypeParameter) && !exported.has(named!))
        missing.add(named!.name)
    }
    ts.forEachChild(node, visit)
  }
  for (const symbol of exported) symbol.declarations?.forEach(visit)
  expect(exported.size).toBeGreaterThan(40)
  expect([...missing]).toEqual([])
})
