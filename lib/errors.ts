/** Stable error codes; docs/errors.md says what each means and what to do. */
export type SlimErrorCode =
  | 'SLIM_INVALID_ARGUMENT'
  | 'SLIM_DISPOSED'
  | 'SLIM_ABORTED'
  | 'SLIM_OUT_OF_MEMORY'
  | 'SLIM_INTERNAL'
  | 'SLIM_NO_ADDON'
  | 'SLIM_DEVICE_UNAVAILABLE'
  | 'SLIM_DEVICE_FAILED'
  | 'SLIM_FILE_NOT_FOUND'
  | 'SLIM_FILE_UNREADABLE'
  | 'SLIM_FILE_UNWRITABLE'
  | 'SLIM_FILE_TRUNCATED'
  | 'SLIM_NO_SPACE'
  | 'SLIM_BAD_CONFIG'
  | 'SLIM_BAD_HEADER'
  | 'SLIM_TENSOR_MISSING'
  | 'SLIM_TENSOR_OVERLAP'
  | 'SLIM_TENSOR_DTYPE'
  | 'SLIM_TENSOR_SHAPE'
  | 'SLIM_TENSOR_NON_FINITE'
  | 'SLIM_UNSUPPORTED_ARCHITECTURE'
  | 'SLIM_UNSUPPORTED_TOKENIZER'
  | 'SLIM_UNSUPPORTED_FORMAT'
  | 'SLIM_TEXT_TOO_SHORT'
  | 'SLIM_TEXT_ENCODING'
  | 'SLIM_GROUP_SIZE'
  | 'SLIM_BUDGET'
  | 'SLIM_NOT_POSITIVE_DEFINITE'
  | 'SLIM_NON_FINITE'
  | 'SLIM_CONTEXT_LENGTH'
  | 'SLIM_CHAT_TEMPLATE'
  | 'SLIM_OUTPUT_EXISTS'
  | 'SLIM_OUTPUT_MISMATCH'

export interface SlimErrorDetails {
  /** The parameter, option or field that is wrong. */
  parameter?: string
  expected?: string
  received?: string
  /** What to do about it. */
  remedy?: string
  /** Path of the file that is at fault. */
  file?: string
  /** Name of the tensor that is at fault. */
  tensor?: string
  cause?: unknown
}

/** Every error that slimllm throws on purpose. */
export class SlimError extends Error {
  override readonly name = 'SlimError'
  readonly code: SlimErrorCode
  readonly parameter?: string
  readonly expected?: string
  readonly received?: string
  readonly remedy?: string
  readonly file?: string
  readonly tensor?: string

  constructor(code: SlimErrorCode, message: string, details: SlimErrorDetails = {}) {
    const { cause, ...fields } = details
    super(
      details.remedy ? `${message}. ${details.remedy}` : message,
      cause === undefined ? undefined : { cause },
    )
    this.code = code
    Object.assign(this, fields)
  }

  /** "Expected X for name but received Y." */
  static invalidArgument(parameter: string, expected: string, received: unknown, remedy?: string): SlimError {
    const shown = typeof received === 'string' ? JSON.stringify(received) : String(received)
    return new SlimError(
      'SLIM_INVALID_ARGUMENT',
      `Expected ${expected} for ${parameter} but received ${shown}`,
      {
        parameter,
        expected,
        received: shown,
        remedy,
      },
    )
  }

  /**
   * The SlimError of an error thrown by node:fs. A SlimError about a file or a tensor gets the names that it lacks: the
   * native code has bytes, not names. Any other value is returned as it is.
   */
  static from(error: unknown, details: SlimErrorDetails = {}): unknown {
    if (error instanceof SlimError) {
      const isUnnamed = error.file === undefined && error.tensor === undefined
      if (isUnnamed && (details.tensor !== undefined || ABOUT_FILES.test(error.code)))
        Object.assign(error, { file: details.file, tensor: details.tensor })
      return error
    }
    if (!(error instanceof Error)) return error
    const { code, path } = error as Error & Record<string, string | undefined>
    const ours = code === undefined ? undefined : FILE_SYSTEM_CODES[code]
    return ours
      ? new SlimError(ours, error.message, { ...details, cause: error, file: path ?? details.file })
      : error
  }
}

const ABOUT_FILES = /^SLIM_(FILE|TENSOR|BAD)_|^SLIM_NO_SPACE$/

const FILE_SYSTEM_CODES: Record<string, SlimErrorCode> = {
  ENOENT: 'SLIM_FILE_NOT_FOUND',
  EACCES: 'SLIM_FILE_UNREADABLE',
  EISDIR: 'SLIM_FILE_UNREADABLE',
  ENOTDIR: 'SLIM_FILE_NOT_FOUND',
  ENOSPC: 'SLIM_NO_SPACE',
  EDQUOT: 'SLIM_NO_SPACE',
  EFBIG: 'SLIM_NO_SPACE',
  EROFS: 'SLIM_FILE_UNWRITABLE',
}
