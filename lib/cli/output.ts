/** What the command line prints: data on stdout, progress on stderr, NDJSON on stdout with --json. */
import { SlimError } from '../errors.js'
import type { SlimWarning } from '../warnings.js'
import { FlagNames } from './flags.js'

/** Exit codes of the command line. */
export const EXIT = { ok: 0, failure: 1, usage: 2, interrupted: 130 } as const

export class Output {
  readonly #bar: boolean
  #barShown = false

  constructor(
    readonly json: boolean,
    private readonly names = new FlagNames(),
  ) {
    this.#bar = process.stderr.isTTY === true && !json
  }

  /** The result: one JSON line, or the lines for people. */
  result(fields: Record<string, unknown>, lines: string[]): void {
    this.#clearBar()
    if (this.json) this.event('result', fields)
    else process.stdout.write(`${lines.join('\n')}\n`)
  }

  /** A part of the data, for people: without an end of line. */
  text(text: string): void {
    this.#clearBar()
    if (!this.json) process.stdout.write(text)
  }

  /** One NDJSON line; nothing without --json. */
  event(event: string, fields: Record<string, unknown>): void {
    if (this.json) process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`)
  }

  /** Progress for people: on a terminal a line that is replaced, elsewhere a line when `milestone` is set. */
  progress(share: number, text: string, milestone: boolean): void {
    if (this.json) return
    if (!this.#bar) {
      if (milestone) process.stderr.write(`${text}\n`)
      return
    }
    const filled = Math.round(share * 24)
    process.stderr.write(`\r\x1b[K${'█'.repeat(filled)}${'░'.repeat(24 - filled)} ${text}`)
    this.#barShown = true
  }

  /** A line for people that is not the result. */
  note(text: string): void {
    this.#clearBar()
    if (!this.json) process.stderr.write(`${text}\n`)
  }

  /** A warning of the library. */
  warning({ code, message, parameter }: SlimWarning): void {
    const text = this.names.message(message, parameter)
    this.event('warning', { code, message: text, parameter: this.names.flag(parameter) })
    this.note(`${style('33', 'warning')} ${code}: ${text}`)
  }

  /** Prints an error and returns the exit code. */
  failure(error: unknown): number {
    this.#clearBar()
    const known = SlimError.from(error)
    const interrupted = isAbort(known)
    const code = known instanceof SlimError ? known.code : undefined
    const message = interrupted
      ? 'Interrupted'
      : known instanceof SlimError
        ? this.names.message(known.message, known.parameter)
        : String((known as Error)?.stack ?? known)
    if (this.json) {
      this.event('error', { ...(known instanceof SlimError && this.fieldsOf(known)), code, message })
    } else {
      process.stderr.write(`${style('31', 'error')} ${code ? `${code}: ` : ''}${message}\n`)
    }
    if (interrupted) return EXIT.interrupted
    return code === 'SLIM_INVALID_ARGUMENT' ? EXIT.usage : EXIT.failure
  }

  private fieldsOf({ parameter, expected, received, remedy, file, tensor }: SlimError) {
    return {
      parameter: parameter && this.names.flag(parameter),
      expected,
      received,
      remedy: remedy && this.names.message(remedy, parameter),
      file,
      tensor,
    }
  }

  #clearBar(): void {
    if (this.#barShown) process.stderr.write('\r\x1b[K')
    this.#barShown = false
  }
}

/** Colour on terminals, unless NO_COLOR is set. */
export function style(ansi: string, text: string): string {
  return process.stderr.isTTY && !process.env.NO_COLOR ? `\x1b[${ansi}m${text}\x1b[0m` : text
}

/** Columns of equal width; the first is left-aligned, the others right-aligned. */
export function table(header: string[], rows: string[][]): string[] {
  const widths = header.map((title, c) => Math.max(title.length, ...rows.map((row) => row[c]!.length)))
  const line = (cells: string[]) =>
    cells
      .map((cell, c) => (c === 0 ? cell.padEnd(widths[c]!) : cell.padStart(widths[c]!)))
      .join('  ')
      .trimEnd()
  return [line(header), line(widths.map((width) => '─'.repeat(width))), ...rows.map(line)]
}

export function duration(seconds: number): string {
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}

export function bytes(count: number): string {
  if (count < 1e6) return `${(count / 1e3).toFixed(1)} kB`
  return count < 1e9 ? `${(count / 1e6).toFixed(2)} MB` : `${(count / 1e9).toFixed(2)} GB`
}

function isAbort(error: unknown): boolean {
  return (
    error instanceof Error &&
    ((error as { code?: string }).code === 'SLIM_ABORTED' || error.name === 'AbortError')
  )
}
