/** Ends a stream of text at the first of some strings, which may come in pieces. */

export class StopStrings {
  /** Text that may become a stop string. */
  #held = ''
  /** Whether a stop string has come. */
  found = false

  constructor(private readonly stops: readonly string[]) {}

  /** The text that no stop string can contain any longer; up to the stop string when one is complete. */
  push(text: string): string {
    const seen = this.#held + text
    const places = this.stops.map((stop) => seen.indexOf(stop)).filter((place) => place >= 0)
    if (places.length > 0) {
      this.found = true
      this.#held = ''
      return seen.slice(0, Math.min(...places))
    }
    const safe = seen.length - this.#longestBeginning(seen)
    this.#held = seen.slice(safe)
    return seen.slice(0, safe)
  }

  /** What was held back, once nothing more will come. */
  end(): string {
    const held = this.#held
    this.#held = ''
    return held
  }

  /** Length of the longest end of the text that begins a stop string. */
  #longestBeginning(text: string): number {
    const longest = Math.max(0, ...this.stops.map((stop) => stop.length - 1))
    for (let length = Math.min(longest, text.length); length > 0; length--) {
      const end = text.slice(-length)
      if (this.stops.some((stop) => stop.startsWith(end))) return length
    }
    return 0
  }
}
