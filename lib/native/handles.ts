/** Handles of native memory, which the garbage collector sees as a few bytes: they are let go of by hand. */
import type { BlockWeights } from './addon.js'

interface Handle {
  dispose(): void
}

/**
 * The handles that one step makes for itself, disposed together at its end. Native objects share ownership: what has
 * been built from a handle keeps its memory alive.
 */
export class Handles implements Disposable {
  readonly #handles: Handle[] = []

  own<T extends Handle>(handle: T): T {
    this.#handles.push(handle)
    return handle
  }

  /** A module's weight and its bias, if it has one. */
  ownModule<T extends { weight: Handle; bias?: Handle }>(module: T): T {
    this.own(module.weight)
    if (module.bias) this.own(module.bias)
    return module
  }

  ownBlock(weights: BlockWeights): BlockWeights {
    for (const module of Object.values({ ...weights.linears, ...weights.norms })) this.ownModule(module)
    return weights
  }

  [Symbol.dispose](): void {
    for (const handle of this.#handles.splice(0)) handle.dispose()
  }
}
