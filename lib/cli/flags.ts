/** The library names its parameters (`groupSize`); on the command line the user typed flags (`--group-size`). */
import type { Command } from 'commander'

export class FlagNames {
  /** Of a subcommand; without one, names stay as they are. */
  constructor(private readonly command?: Command) {}

  /** The flag that sets a parameter of the library. */
  flag(parameter: string): string {
    if (parameter === 'overrides') return '--override'
    const [, glob, field] = /^overrides\["(.+)"\](?:\.(\w+))?$/.exec(parameter) ?? []
    if (glob) return `--override "${field ? `${glob}:${field}` : glob}"`
    if (parameter === 'source' || parameter === 'path') return '<model>'
    const [, name, index = ''] = /^(?:calibration\.)?(\w+)(\[.+\])?$/.exec(parameter) ?? []
    const option = this.command?.options.find((option) => option.attributeName() === name)
    return option?.long ? option.long + index : parameter
  }

  /** A message of the library, about that parameter, in the words of the command line. */
  message(text: string, parameter?: string): string {
    let words = text
    if (parameter) {
      const flag = this.flag(parameter)
      // A name such as "file" or "bits" is also a common word.
      words = /^[a-z]+$/.test(parameter)
        ? words.replace(`for ${parameter} but`, `for ${flag} but`)
        : words.replaceAll(parameter, flag)
    }
    for (const option of this.command?.options ?? []) {
      const name = option.attributeName()
      if (option.long && /[A-Z]/.test(name))
        // Not within a path, a quotation, or the "groupSize=32" of --override.
        words = words.replace(new RegExp(`(?<![\\w./"'-])${name}(?![\\w/=-])`, 'g'), option.long)
    }
    return words
  }
}
