/** Token ids from outside, checked before native code reads table rows by them. */
import type { DecoderSpec } from '../architecture/spec.js'
import { SlimError } from '../errors.js'
import type { SlimWarning } from '../warnings.js'

/** The ids as the native code takes them; the error names the first that the model has no row for. */
export function checkTokenIds(
  parameter: string,
  tokenIds: ArrayLike<number>,
  { vocabSize }: Pick<DecoderSpec, 'vocabSize'>,
): Int32Array {
  if (typeof tokenIds !== 'object' || !Number.isInteger(tokenIds?.length))
    throw SlimError.invalidArgument(parameter, 'an array of token ids', tokenIds)
  const ids = new Int32Array(tokenIds.length)
  for (let i = 0; i < ids.length; i++) {
    const id = tokenIds[i]
    if (!Number.isInteger(id) || id! < 0 || id! >= vocabSize)
      throw SlimError.invalidArgument(
        `${parameter}[${i}]`,
        `a whole number from 0 to ${vocabSize - 1}`,
        id,
        'Use the tokenizer that belongs to the model',
      )
    ids[i] = id!
  }
  return ids
}

/**
 * Learned positions (OPT) end with their table. Rotary ones go on for ever: past maxPositions a model is only likely
 * to be bad, which is worth a warning.
 */
export function checkPositions(
  parameter: string,
  length: number,
  { positions, maxPositions }: Pick<DecoderSpec, 'positions' | 'maxPositions'>,
  onWarning?: (warning: SlimWarning) => void,
): void {
  if (length <= maxPositions) return
  if (positions)
    throw SlimError.invalidArgument(
      parameter,
      `at most the ${maxPositions} positions that the model has learned`,
      length,
    )
  onWarning?.({
    code: 'SLIM_BEYOND_POSITIONS',
    message: `${parameter} ${length} goes beyond the ${maxPositions} positions that the model was made for: expect bad predictions there`,
    parameter,
  })
}
