/** Reading a Hugging Face config.json field by field; a wrong one is SLIM_BAD_CONFIG, named with what came. */
import { SlimError } from '../errors.js'

function show(value: unknown): string {
  return value === undefined ? 'nothing' : JSON.stringify(value)
}

export class Config {
  constructor(
    private readonly fields: Record<string, unknown>,
    /** Where the fields lie in the file, e.g. "rope_parameters." */
    private readonly prefix = '',
  ) {}

  /** The field's value; absent and null are undefined. */
  get(name: string): unknown {
    return this.fields[name] ?? undefined
  }

  isNull(name: string): boolean {
    return this.fields[name] === null
  }

  fail(name: string, expected: string): never {
    const parameter = this.prefix + name
    const received = show(this.fields[name])
    throw new SlimError(
      'SLIM_BAD_CONFIG',
      `Expected ${expected} for ${parameter} in config.json but received ${received}`,
      {
        parameter,
        expected,
        received,
      },
    )
  }

  /** A whole number from 1 up. */
  size(name: string, fallback?: number): number {
    const value = this.get(name) ?? fallback
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 1)
      this.fail(name, 'a whole number from 1 up')
    return value
  }

  number(name: string, fallback?: number): number {
    const value = this.get(name) ?? fallback
    if (typeof value !== 'number' || !Number.isFinite(value)) this.fail(name, 'a number')
    return value
  }

  positive(name: string, fallback?: number): number {
    const value = this.number(name, fallback)
    if (value <= 0) this.fail(name, 'a number above 0')
    return value
  }

  boolean(name: string, fallback: boolean): boolean {
    const value = this.get(name) ?? fallback
    if (typeof value !== 'boolean') this.fail(name, 'true or false')
    return value
  }

  string(name: string, fallback?: string): string {
    const value = this.get(name) ?? fallback
    if (typeof value !== 'string') this.fail(name, 'a string')
    return value
  }

  /** The fields of an object, or undefined. */
  object(name: string): Config | undefined {
    const value = this.get(name)
    if (value === undefined) return undefined
    if (typeof value !== 'object' || Array.isArray(value)) this.fail(name, 'an object')
    return new Config(value as Record<string, unknown>, `${this.prefix}${name}.`)
  }

  /** One of `values`' keys; another string is SLIM_UNSUPPORTED_ARCHITECTURE. */
  oneOf<T>(name: string, values: Readonly<Record<string, T>>, fallback?: string): T {
    const key = this.string(name, fallback)
    if (Object.hasOwn(values, key)) return values[key]!
    throw this.unsupported(name, `one of ${Object.keys(values).join(', ')}`)
  }

  /** The error of a value that transformers would take but slimllm does not. */
  unsupported(name: string, expected: string, remedy?: string): SlimError {
    const parameter = this.prefix + name
    const received = show(this.fields[name])
    return new SlimError(
      'SLIM_UNSUPPORTED_ARCHITECTURE',
      `Expected ${expected} for ${parameter} in config.json but received ${received}, which is not supported`,
      { parameter, expected, received, remedy },
    )
  }
}
