/** A conversation, line by line: on a terminal with a prompt and Ctrl-C for the answer alone, from a pipe as a script. */
import readline from 'node:readline'
import type { ChatMessage } from '../runtime/chat_template.js'
import type { Generation } from '../runtime/generation.js'
import type { Context } from './action.js'
import { style } from './output.js'
import { show } from './show.js'

export async function converse(
  before: readonly ChatMessage[],
  answer: (messages: readonly ChatMessage[], signal: AbortSignal) => Generation,
  { output, signal }: Context,
): Promise<void> {
  const isTerminal = process.stdin.isTTY === true && !output.json
  const lines = readline.createInterface({
    input: process.stdin,
    output: isTerminal ? process.stderr : undefined,
    prompt: style('36', '> '),
    terminal: isTerminal,
  })
  let answering: AbortController | null = null
  const end = () => {
    answering?.abort()
    lines.close()
  }
  signal.addEventListener('abort', end, { once: true })
  // A terminal in readline's hands sends no signal: Ctrl-C comes as this event.
  lines.on('SIGINT', () => (answering ? answering.abort() : lines.close()))
  const messages = [...before]
  let turns = 0
  let tokens = 0
  const started = performance.now()
  if (isTerminal) {
    output.note('Ctrl-C stops an answer, Ctrl-D ends.')
    lines.prompt()
  }
  for await (const line of lines) {
    if (line.trim() !== '') {
      answering = new AbortController()
      messages.push({ role: 'user', content: line })
      let text = ''
      try {
        const shown = await show(output, answer(messages, answering.signal), (piece) => {
          text += piece
        })
        output.event('answer', { ...shown })
        tokens += shown.tokens
      } catch (error) {
        if (!answering.signal.aborted) throw error
      }
      output.text('\n')
      messages.push({ role: 'assistant', content: text })
      answering = null
      turns++
    }
    if (isTerminal) lines.prompt()
  }
  signal.throwIfAborted()
  output.event('result', { turns, tokens, seconds: (performance.now() - started) / 1000, messages })
}
