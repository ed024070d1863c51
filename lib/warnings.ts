/** What is likely a mistake, but no error: given to `onWarning`. docs/errors.md says what each code means. */
export type SlimWarningCode = 'SLIM_BEYOND_POSITIONS'

export interface SlimWarning {
  code: SlimWarningCode
  message: string
  /** The parameter that it is about. */
  parameter: string
}
