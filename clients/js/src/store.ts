/** A topic as a store, for the frameworks of user interfaces: the newest state, and a call when it changes. */
import type { Socket } from "phoenix"
import type { Listed, Status, WatchOptions } from "./change.js"
import { watch, type LiveQuery } from "./live.js"
import type { Result, Row } from "./result.js"

/** A topic at one moment. The same object until something changes; a row that did not change is the same object, too. */
export interface LiveState<R extends object = Row> {
  /** The rows in the query's order; empty until the first result arrives. */
  readonly rows: readonly R[]
  readonly status: Status
  /** The topic's members. */
  readonly presence: readonly Listed[]
  /** The whole result; null until the first one arrives. */
  readonly result: Result | null
}

/** The options of a store: those of `watch`. */
export type LiveOptions = WatchOptions

/** A topic whose state is read with `get`, and watched while it has subscribers. */
export interface LiveStore {
  /** Calls `listener` after each change, until the returned function is called. */
  subscribe(listener: () => void): () => void
  get(): LiveState
  /** Replaces the meta that other members of the topic see. */
  setMeta(meta: NonNullable<WatchOptions["presence"]>["meta"] & object): void
}

/** Time for which a topic is watched after its last subscriber left: components come and go, some twice (StrictMode). */
const LINGER_MS = 1000

/** The state of a topic that nobody watches. */
export const NOTHING: LiveState = {
  rows: [],
  status: { state: "connecting", reason: null, since: null },
  presence: [],
  result: null,
}

const stores = new WeakMap<Socket, Map<string, LiveStore>>()

/** Returns the store of a topic on a socket: the same one for the same topic and options while it is in use. */
export function liveStore(socket: Socket, topic: string, options: LiveOptions = {}): LiveStore {
  let known = stores.get(socket)
  if (!known) stores.set(socket, (known = new Map()))
  const name = JSON.stringify([topic, options.presence ?? null, options.deltas ?? true])
  let store = known.get(name)
  if (!store) known.set(name, (store = create(socket, topic, options)))
  return store
}

function create(socket: Socket, topic: string, options: LiveOptions): LiveStore {
  const listeners = new Set<() => void>()
  let state = NOTHING
  let live: LiveQuery | null = null
  let leaving: ReturnType<typeof setTimeout> | undefined
  const stop = (): void => {
    live?.stop()
    live = null
    state = NOTHING
  }
  return {
    get: () => state,
    setMeta: (meta) => live?.setMeta(meta),
    subscribe(listener) {
      const own = (): void => listener() // one listener may subscribe twice
      clearTimeout(leaving)
      listeners.add(own)
      // A refused topic is tried again by its next first subscriber.
      if (listeners.size === 1 && state.status.state === "failed" && !state.result) stop()
      live ??= watch(socket, topic, options, ({ rows, status, presence, result }) => {
        state = { rows, status, presence, result }
        for (const each of [...listeners]) each()
      })
      return () => {
        if (!listeners.delete(own) || listeners.size) return
        leaving = setTimeout(stop, LINGER_MS)
      }
    },
  }
}

/** Returns the age of a result in milliseconds: the time since the poll that first returned it, by this clock. */
export function ageOf({ result }: LiveState): number | null {
  return result === null ? null : Math.max(0, Date.now() - Date.parse(result.polledAt))
}
