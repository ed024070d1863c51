import { expect } from 'vitest'
import { SlimError, type SlimErrorCode } from '../../lib/errors.js'

/** Runs the action and expects a SlimError with this code, these fields, and these words in its message. */
export async function expectSlimError(
  action: () => unknown,
  code: SlimErrorCode,
  fields: { file?: string; tensor?: string; parameter?: string } = {},
  ...words: (string | RegExp)[]
): Promise<SlimError> {
  let caught: unknown
  try {
    await action()
  } catch (error) {
    caught = error
  }
  expect(caught).toBeInstanceOf(SlimError)
  const error = caught as SlimError
  expect({ code: error.code, message: error.message }).toEqual({ code, message: error.message })
  expect(error).toMatchObject(fields)
  // What the error is about is named in the text, too: the fields do not reach every log.
  for (const word of [...Object.values(fields), ...words]) expect(error.message).toMatch(toPattern(word))
  return error
}

const toPattern = (word: string | RegExp) =>
  typeof word === 'string' ? new RegExp(word.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')) : word
