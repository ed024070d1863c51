import { describe, expect, it } from 'vitest'
import { FlagNames } from '../../lib/cli/flags.js'
import { slimllmProgram } from '../../lib/cli/program.js'

const quantize = slimllmProgram().commands.find((command) => command.name() === 'quantize')!
const names = new FlagNames(quantize)

describe('FlagNames', () => {
  it.each([
    ['bits', '--bits'],
    ['groupSize', '--group-size'],
    ['calibration.seqLen', '--seq-len'],
    ['calibration.offsets[3]', '--offsets[3]'],
    ['bitMap["a.b"]', '--bit-map["a.b"]'],
    ['overrides', '--override'],
    ['overrides["**.q"].groupSize', '--override "**.q:groupSize"'],
    ['source', '<model>'],
    ['quantization_config.group_size', 'quantization_config.group_size'],
  ])('%s is %s', (parameter, flag) => {
    expect(names.flag(parameter)).toBe(flag)
    expect(new FlagNames().flag('bits')).toBe('bits')
  })

  it.each([
    [
      'Expected 1 or 2 for bits but received 9 bits',
      'bits',
      'Expected 1 or 2 for --bits but received 9 bits',
    ],
    ['calibration.seqLen 9 is odd', 'calibration.seqLen', '--seq-len 9 is odd'],
    ['Choose a smaller groupSize, or headBits.', undefined, 'Choose a smaller --group-size, or --head-bits.'],
    ['/tmp/groupSize/x.seqLen has "seqLen"', undefined, '/tmp/groupSize/x.seqLen has "seqLen"'],
    ['Expected GLOB:bits=N,groupSize=N', '--override', 'Expected GLOB:bits=N,groupSize=N'],
  ])('puts %j in the words of the command line', (text, parameter, expected) => {
    expect(names.message(text, parameter)).toBe(expected)
  })
})
