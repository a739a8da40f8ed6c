/** A store for Svelte: `@pollcast/client/svelte`. It follows Svelte's store contract, so that `$store` works. */
import type { Socket } from "phoenix"
import type { QueryName, RowOf, Topic } from "./queries.js"
import type { Row } from "./result.js"
import { ageOf, liveStore, type LiveOptions, type LiveState } from "./store.js"

/** A topic at one moment, as the store has it. */
export interface Live<R extends object = Row> extends LiveState<R> {
  /** The time since the poll that first returned this result, in milliseconds, at the last change or tick. */
  readonly age: number | null
}

/** A readable store of Svelte. */
export interface LiveReadable<R extends object = Row> {
  subscribe(run: (value: Live<R>) => void): () => void
}

/** The options of `live`, all optional. */
export interface LiveStoreOptions extends LiveOptions {
  /** The store changes each so many milliseconds, for its `age`. By default only with the topic. */
  tick?: number
}

/**
 * Returns the live state of a topic as a store. The topic is watched while the store has subscribers; stores of one
 * topic share one subscription.
 */
export function live<Q extends QueryName>(
  socket: Socket,
  topic: Topic<Q>,
  options?: LiveStoreOptions,
): LiveReadable<RowOf<Q>>
export function live<R extends object = Row>(
  socket: Socket,
  topic: string,
  options?: LiveStoreOptions,
): LiveReadable<R>
export function live<R extends object = Row>(
  socket: Socket,
  topic: string,
  options: LiveStoreOptions = {},
): LiveReadable<R> {
  const store = liveStore(socket, topic, options)
  return {
    subscribe(run) {
      const show = (): void => {
        const state = store.get()
        run({ ...state, rows: state.rows as readonly R[], age: ageOf(state) })
      }
      const unsubscribe = store.subscribe(show)
      const ticking = options.tick ? setInterval(show, options.tick) : undefined
      show()
      return () => {
        clearInterval(ticking)
        unsubscribe()
      }
    },
  }
}
