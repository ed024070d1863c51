/** A text in the making, printed as it comes. */
import type { Generation } from '../runtime/generation.js'
import type { Output } from './output.js'

/** What a text that was shown came to. */
export interface Shown {
  text: string
  tokens: number
  promptTokens: number
  reusedTokens: number
  finishReason: Generation['finishReason']
  /** Until the first token: of the prompt. */
  promptSeconds: number
  seconds: number
}

/** Prints tokens as they come. */
export async function show(
  output: Output,
  generation: Generation,
  onText?: (text: string) => void,
): Promise<Shown> {
  let text = ''
  let promptSeconds = 0
  const started = performance.now()
  const seconds = () => (performance.now() - started) / 1000
  for await (const token of generation) {
    promptSeconds ||= seconds()
    output.event('token', { ...token })
    output.text(token.text)
    onText?.(token.text)
    text += token.text
  }
  const { promptTokens, reusedTokens, finishReason, generatedTokens: tokens } = generation
  return { text, tokens, promptTokens, reusedTokens, finishReason, promptSeconds, seconds: seconds() }
}
