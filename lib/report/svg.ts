/** SVG as text: escaped, rounded, with a style that follows the reader's light or dark scheme. */

/** Characters that XML 1.0 cannot hold, even escaped. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
const FORBIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|\p{Surrogate}/gu

export const escapeText = (text: string) =>
  text.replace(FORBIDDEN, '\ufffd').replace(/[&<>"']/g, (c) => `&#${c.codePointAt(0)};`)

export type Attributes = Readonly<Record<string, string | number>>

/** Hundredths of a pixel are finer than any screen. */
const attributeText = (value: string | number) =>
  escapeText(typeof value === 'number' ? String(Math.round(value * 100) / 100) : value)

/** `children` are elements; text goes through escapeText first, or through `text` below. */
export function element(name: string, attributes: Attributes, ...children: string[]): string {
  const list = Object.entries(attributes).map(([key, value]) => ` ${key}="${attributeText(value)}"`)
  return children.length
    ? `<${name}${list.join('')}>${children.join('')}</${name}>`
    : `<${name}${list.join('')}/>`
}

export const text = (content: string, attributes: Attributes) =>
  element('text', attributes, escapeText(content))

/** Width of a text in pixels, a little generous: the fonts are the reader's. */
export const textWidth = (content: string, size: number) => content.length * size * 0.6

export const FONT_SIZE = 12

const STYLE = `
text{font:${FONT_SIZE}px system-ui,sans-serif;fill:#24292f}
.small{font-size:10px}.title{font-size:15px;font-weight:600}.axis,.grid,.leader{fill:none;stroke:#57606a}
.grid{stroke-opacity:.25}.leader{stroke-opacity:.5;stroke-dasharray:2 2}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.axis,.grid,.leader{stroke:#9198a1}}`

/** The whole picture. `title` is drawn and, with `description`, read out; the background stays the page's. */
export function svg(
  options: { width: number; height: number; title: string; description: string },
  ...children: string[]
): string {
  const { width, height, title, description } = options
  return `${element(
    'svg',
    {
      xmlns: 'http://www.w3.org/2000/svg',
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      role: 'img',
      'aria-labelledby': 'title description',
    },
    element('title', { id: 'title' }, escapeText(title)),
    element('desc', { id: 'description' }, escapeText(description)),
    element('style', {}, STYLE),
    text(title, { x: 16, y: 24, class: 'title' }),
    ...children,
  )}\n`
}
