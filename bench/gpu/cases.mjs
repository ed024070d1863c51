// What the GPU benchmarks measure and predict: shapes, numbers of tokens, mixes of widths, goals.

/** [inputs, outputs] */
export const SHAPES = [
  [4096, 4096],
  [4096, 11008],
  [11008, 4096],
  [8192, 28672],
]
export const TOKENS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
export const GROUP_SIZE = 128
/** Widths of the groups, over and over. */
export const MIXES = [
  { name: '2-bit mix', widths: [2, 1, 2, 3] },
  { name: '3-bit mix', widths: [3, 2, 3, 4] },
  { name: '4 bits', widths: [4] },
]
/** A scale and a zero point or mean for every row of a group, float16 both. */
export const storedBits = ({ widths }) =>
  widths.reduce((sum, bits) => sum + bits, 0) / widths.length + 32 / GROUP_SIZE

/** Times faster than float16 that the 2-bit mix is to be; of a shape, or of all. */
export const GOALS = [
  { tokens: 1, shape: [4096, 11008], least: 4 },
  { tokens: 1, shape: [8192, 28672], least: 5.5 },
  { tokens: 16, least: 4 },
  { tokens: 64, least: 1.8 },
  { tokens: 256, least: 0.9 },
]
export const GOAL_MIX = '2-bit mix'
/** And at one token, times faster than tinygemm's 4 bits. */
export const TINYGEMM_GOAL = 1.6

export const shapeName = ([cols, rows]) => `${cols}×${rows}`
export const tokensName = (tokens) => `${tokens} ${tokens > 1 ? 'tokens' : 'token'}`

export function markdownTable(header, rows) {
  const line = (cells) => `| ${cells.join(' | ')} |`
  return [line(header), line(header.map(() => '---')), ...rows.map(line)].join('\n')
}
