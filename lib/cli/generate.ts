import { Command, Option } from 'commander'
import { type LoadOptions, loadModel } from '../runtime/model.js'
import { act, type Context, decimal, wholeNumber } from './action.js'

interface Flags extends LoadOptions {
  prompt: string
  maxTokens: number
  temperature: number
  topP: number
  seed: number
}

export function generateCommand(): Command {
  return new Command('generate')
    .description('continue a prompt')
    .argument('<model>', 'packed folder, Hugging Face folder, or .gguf file')
    .requiredOption('--prompt <text>', 'the text to continue')
    .option('--max-tokens <n>', 'tokens to make', wholeNumber, 128)
    .option('--temperature <t>', '0: always the likeliest token', decimal, 0)
    .option('--top-p <p>', 'draw from the smallest set of tokens with this probability', decimal, 1)
    .option('--seed <n>', 'seed of the draw', wholeNumber, 0)
    .addOption(new Option('--device <name>', 'device').choices(['auto', 'cpu', 'cuda']).default('auto'))
    .option('--threads <n>', 'threads (default: all cores)', wholeNumber)
    .option('--json', 'NDJSON on stdout')
    .action((source: string, flags: Flags, command: Command) =>
      act(command, (context) => runGenerate(source, flags, context)),
    )
}

async function runGenerate(source: string, flags: Flags, { output, signal }: Context): Promise<void> {
  await using model = await loadModel(source, { ...flags, signal })
  const { prompt, maxTokens, temperature, topP, seed } = flags
  let text = ''
  let tokens = 0
  const started = performance.now()
  for await (const token of model.generate(prompt, { maxTokens, temperature, topP, seed, signal })) {
    output.event('token', { ...token })
    if (!output.json) process.stdout.write(token.text)
    text += token.text
    tokens++
  }
  output.result({ text, tokens, seconds: (performance.now() - started) / 1000 }, [''])
}
