import { describe, expect, it } from 'vitest'
import { sampleWindows } from '../../lib/calibration/samples.js'

const tokens = Int32Array.from({ length: 1000 }, (_, i) => i)

describe('sampleWindows', () => {
  it('cuts consecutive tokens at seeded offsets, the same each time', () => {
    const a = sampleWindows(tokens, { samples: 5, seqLen: 10, seed: 1 })
    const b = sampleWindows(tokens, { samples: 5, seqLen: 10, seed: 1 })
    const c = sampleWindows(tokens, { samples: 5, seqLen: 10, seed: 2 })
    expect(a).toEqual(b)
    expect(a.hash).not.toBe(c.hash)
    for (let i = 0; i < 5; i++)
      expect([...a.ids.subarray(i * 10, i * 10 + 10)]).toEqual([
        ...tokens.subarray(a.offsets[i]!, a.offsets[i]! + 10),
      ])
  })

  it('takes given offsets, the last possible one too', () => {
    const { ids, samples } = sampleWindows(tokens, { seqLen: 4, offsets: [0, 996] })
    expect(samples).toBe(2)
    expect(sampleWindows(tokens, { samples: 2, seqLen: 4, offsets: [0, 996] }).ids).toEqual(ids)
    expect([...ids]).toEqual([0, 1, 2, 3, 996, 997, 998, 999])
  })

  it('draws the only offset there is', () => {
    expect(sampleWindows(tokens, { samples: 3, seqLen: 1000 }).offsets).toEqual([0, 0, 0])
  })

  it.each([
    [{ samples: 0, seqLen: 10 }, 'SLIM_INVALID_ARGUMENT', 'calibration.samples'],
    [{ samples: 2, seqLen: 1.5 }, 'SLIM_INVALID_ARGUMENT', 'calibration.seqLen'],
    [{ samples: 2, seqLen: 10, seed: Number.NaN }, 'SLIM_INVALID_ARGUMENT', 'calibration.seed'],
    [{ samples: 2, seqLen: 10, seed: 0.5 }, 'SLIM_INVALID_ARGUMENT', 'calibration.seed'],
    [{ samples: 3, seqLen: 10, offsets: [5, 9] }, 'SLIM_INVALID_ARGUMENT', 'calibration.samples'],
    [{ seqLen: 10, offsets: [991] }, 'SLIM_INVALID_ARGUMENT', 'calibration.offsets[0]'],
    [{ samples: 2, seqLen: 1001 }, 'SLIM_TEXT_TOO_SHORT', 'calibration'],
  ])('refuses %o', (options, code, parameter) => {
    expect(() => sampleWindows(tokens, options)).toThrow(expect.objectContaining({ code, parameter }))
  })
})
