import { Command } from 'commander'
import { SlimError } from '../errors.js'
import type { ChatMessage } from '../runtime/chat_template.js'
import type { KvCacheType } from '../runtime/generate_options.js'
import { type LoadOptions, loadModel } from '../runtime/model.js'
import type { SequenceOptions } from '../runtime/session.js'
import {
  act,
  activationsOption,
  type Context,
  decimal,
  deviceOption,
  kvCacheOption,
  loading,
  wholeNumber,
} from './action.js'
import { converse } from './chat.js'
import type { Output } from './output.js'
import { type Shown, show } from './show.js'

interface Flags extends LoadOptions, Omit<SequenceOptions, 'signal'> {
  prompt?: string
  chat?: boolean
  system?: string
  kvCache?: KvCacheType
}

/** Flags that are options of generation, by their names in the library. */
const SEQUENCE_OPTIONS = [
  'maxTokens',
  'temperature',
  'topK',
  'topP',
  'minP',
  'repetitionPenalty',
  'repetitionWindow',
  'seed',
  'stop',
  'logprobs',
] as const

export function generateCommand(): Command {
  return new Command('generate')
    .description('continue a prompt, or chat')
    .argument('<model>', 'packed folder, Hugging Face folder, or .gguf file')
    .option('--prompt <text>', 'the text to continue; with --chat, the one message to answer')
    .option('--chat', 'a conversation: each line of the input is a message')
    .option('--system <text>', 'with --chat: the message before the first')
    .option(
      '--max-tokens <n>',
      'most tokens to make (default: 128; with --chat, what the context has room for)',
      wholeNumber,
    )
    .option('--temperature <t>', '0: always the likeliest token', decimal, 0)
    .option('--top-k <n>', 'draw from the n likeliest tokens; 0: all', wholeNumber, 0)
    .option('--top-p <p>', 'draw from the smallest set of tokens with this probability', decimal, 1)
    .option('--min-p <p>', "leave out tokens below this share of the likeliest one's probability", decimal, 0)
    .option('--repetition-penalty <x>', 'divide the logits of recent tokens by this', decimal, 1)
    .option('--repetition-window <n>', 'tokens that are recent', wholeNumber, 64)
    .option('--seed <n>', 'seed of the draw', wholeNumber, 0)
    .option(
      '--stop <text>',
      'end before this text; may be repeated',
      (text, all: string[]) => [...all, text],
      [],
    )
    .option('--logprobs <n>', 'with --json: the n likeliest tokens beside each', wholeNumber, 0)
    .addOption(kvCacheOption())
    .addOption(deviceOption())
    .addOption(activationsOption())
    .option('--threads <n>', 'threads (default: all cores)', wholeNumber)
    .option('--json', 'NDJSON on stdout')
    .action((source: string, flags: Flags, command: Command) =>
      act(command, (context) => runGenerate(source, flags, context)),
    )
}

async function runGenerate(source: string, flags: Flags, { output, signal }: Context): Promise<void> {
  const { prompt, chat = false, system, kvCache } = flags
  if (prompt === undefined && !chat)
    throw SlimError.invalidArgument('prompt', 'a text to continue', 'none', 'Or chat, with --chat')
  if (system !== undefined && !chat)
    throw SlimError.invalidArgument('system', 'no system message without --chat', system)
  await using model = await loadModel(source, loading(flags, signal))
  const options: SequenceOptions = Object.fromEntries(SEQUENCE_OPTIONS.map((name) => [name, flags[name]]))
  // The turns of a conversation begin with the same tokens: one cache is enough for all of them.
  await using session = model.session({ maxSequences: 1, keptCaches: 1, kvCache })
  if (!chat) return finish(output, await show(output, session.generate(prompt!, { ...options, signal })))
  const before: ChatMessage[] = system === undefined ? [] : [{ role: 'system', content: system }]
  const answer = (messages: readonly ChatMessage[], stop: AbortSignal) => {
    // A default of 128 would cut answers short.
    const ids = model.tokenizer.encode(model.tokenizer.applyChatTemplate(messages))
    const maxTokens = flags.maxTokens ?? Math.max(1, session.contextLength - ids.length)
    return session.generate(ids, { ...options, maxTokens, signal: stop })
  }
  if (prompt === undefined) return await converse(before, answer, { output, signal })
  finish(output, await show(output, answer([...before, { role: 'user', content: prompt }], signal)))
}

function finish(output: Output, shown: Shown): void {
  const { tokens, promptTokens, promptSeconds, seconds } = shown
  output.result({ ...shown }, [''])
  const rate = (count: number, time: number) => (time > 0 && count > 0 ? (count / time).toFixed(1) : '–')
  output.note(
    `prompt: ${promptTokens} tokens, ${rate(promptTokens, promptSeconds)} a second; ` +
      `text: ${tokens} tokens, ${rate(tokens - 1, seconds - promptSeconds)} a second`,
  )
}
