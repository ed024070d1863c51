/**
 * The kernels' tests on this machine's GPU, where there is one: what test/cuda asks of the emulated driver but for
 * its counts. On small cases also under `compute-sanitizer --tool memcheck` and `racecheck`.
 */
import { it } from 'vitest'
import { addon } from '../../lib/native/addon.js'
import { missingForCuda } from '../../lib/native/device.js'

const TESTS = [
  'bit_allocation',
  'block_backward',
  'calibration_block',
  'decoder_operations',
  'device_hessian',
  'device_model',
  'fisher',
  'group_errors',
  'group_quantization',
  'head_gradient',
  'inverse_factor',
  'load_model',
  'multiply',
  'packed_linear',
  'quantize',
  'quantize_linear',
  'refinement',
  'sampling',
]

const missing = missingForCuda()
if (missing) {
  console.warn(`skipped: the kernels on a GPU; ${missing.message}`)
  it.skip('runs the kernels on a GPU')
} else {
  console.warn(`the kernels run on ${addon().cudaDriver().devices[0]!.name}`)
  process.env.SLIM_TEST_GPU = '1' // before test/support/cuda.ts is loaded
  for (const name of TESTS) await import(`../cuda/${name}.test.ts`)
}
