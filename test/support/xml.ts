/** A strict reader of the XML that this project writes: elements, attributes, text, numeric references. */
export interface XmlElement {
  name: string
  attributes: Record<string, string>
  children: XmlElement[]
  /** Of this element itself. */
  text: string
}

const unescaped = (raw: string) => {
  if (/[<>]|&(?!#\d+;)/.test(raw)) throw new Error(`not escaped: ${raw}`)
  return raw.replace(/&#(\d+);/g, (_, code) => String.fromCodePoint(Number(code)))
}

export function parseXml(source: string): XmlElement {
  const root: XmlElement = { name: '', attributes: {}, children: [], text: '' }
  const open = [root]
  const token = /<\/([\w-]+)>|<([\w-]+)((?: [\w:-]+="[^"<]*")*)(\/?)>|([^<]+)/gy
  while (token.lastIndex < source.length) {
    const at = token.lastIndex
    const match = token.exec(source)
    if (!match) throw new Error(`not well-formed at ${at}: ${source.slice(at, at + 60)}`)
    const [, closes, opens, list, isEmpty, text] = match
    const parent = open.at(-1)!
    if (closes) {
      if (parent.name !== closes) throw new Error(`</${closes}> closes <${parent.name}>`)
      open.pop()
    } else if (opens) {
      const element: XmlElement = { name: opens, attributes: {}, children: [], text: '' }
      for (const [, key, value] of list!.matchAll(/ ([\w:-]+)="([^"]*)"/g)) {
        if (key! in element.attributes) throw new Error(`${key} comes twice in <${opens}>`)
        element.attributes[key!] = unescaped(value!)
      }
      parent.children.push(element)
      if (!isEmpty) open.push(element)
    } else parent.text += unescaped(text!)
  }
  if (open.length > 1 || root.children.length !== 1 || root.text.trim())
    throw new Error('not one closed element')
  return root.children[0]!
}

/** All elements, the outer before the inner. */
export const descendants = (element: XmlElement): XmlElement[] => [
  element,
  ...element.children.flatMap(descendants),
]
