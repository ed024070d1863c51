/** Tokens to text one at a time, in time linear in their number. */
import type { Tokenizer } from './tokenizer.js'

/** No character takes as many; a longer run of bytes that make none is shown as U+FFFD. */
const MOST_PENDING = 16

/**
 * A token's text depends on its neighbours: a character may take several tokens, and SentencePiece decoders drop the
 * space before a text's first word. So a token is decoded together with the settled tokens just before it, whose own
 * text is then cut off; what ends in an unfinished character (U+FFFD) waits for more tokens.
 */
export class TextStream {
  /** The last settled tokens that gave text, that text, and the tokens since then. */
  #context: number[]
  #shown: string
  #pending: number[] = []

  /** The text continues that of `before`. */
  constructor(
    private readonly tokenizer: Pick<Tokenizer, 'decode'>,
    before: ArrayLike<number> = [],
  ) {
    this.#context = Array.from(before)
    // An unfinished character at its end is completed here.
    this.#shown = tokenizer.decode(this.#context).replace(/\uFFFD+$/, '')
  }

  /** The text that this token completes; empty while a character is unfinished. */
  push(tokenId: number): string {
    this.#pending.push(tokenId)
    const text = this.#pendingText()
    const isWhole = text !== '' && !text.endsWith('\uFFFD')
    return isWhole || this.#pending.length === MOST_PENDING ? this.#settle(text) : ''
  }

  /** The text of the tokens that wait, finished or not. */
  end(): string {
    return this.#settle(this.#pendingText())
  }

  #pendingText(): string {
    return this.tokenizer.decode([...this.#context, ...this.#pending]).slice(this.#shown.length)
  }

  #settle(text: string): string {
    if (text !== '') {
      this.#context = this.#pending
      this.#shown = this.tokenizer.decode(this.#context)
    }
    this.#pending = []
    return text
  }
}
