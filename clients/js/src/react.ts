/** Hooks for React 18 and later: `@pollcast/client/react`. */
import type { Socket } from "phoenix"
import { createContext, createElement, useContext, useEffect, useReducer, useSyncExternalStore } from "react"
import type { ReactElement, ReactNode } from "react"
import type { QueryName, RowOf, Topic } from "./queries.js"
import type { Row } from "./result.js"
import { ageOf, liveStore, NOTHING, type LiveOptions, type LiveState } from "./store.js"

export type { LiveState } from "./store.js"

/** A topic at one moment, as `useLive` returns it. */
export interface Live<R extends object = Row> extends LiveState<R> {
  /** The time since the poll that first returned this result, in milliseconds, when the component was rendered. */
  readonly age: number | null
}

/** The options of `useLive`, all optional. */
export interface UseLiveOptions extends LiveOptions {
  /** The socket; by default that of the `PollcastProvider` around the component. */
  socket?: Socket
  /** The component is rendered again each so many milliseconds, for its `age`. By default only changes render it. */
  tick?: number
}

const SocketContext = createContext<Socket | null>(null)

/** Provides the socket (from `connect`) to the components in it. */
export function PollcastProvider({ socket, children }: { socket: Socket; children?: ReactNode }): ReactElement {
  return createElement(SocketContext.Provider, { value: socket }, children)
}

const none = (): (() => void) => () => undefined
const nothing = (): LiveState => NOTHING

/**
 * Returns the live state of a topic; of null, that of a topic without a result. Components with the same topic share one
 * subscription, which ends a second after the last of them has gone.
 */
export function useLive<Q extends QueryName>(topic: Topic<Q> | null, options?: UseLiveOptions): Live<RowOf<Q>>
export function useLive<R extends object = Row>(topic: string | null, options?: UseLiveOptions): Live<R>
export function useLive<R extends object = Row>(topic: string | null, options: UseLiveOptions = {}): Live<R> {
  const provided = useContext(SocketContext)
  const socket = options.socket ?? provided
  if (socket === null) throw new Error("useLive needs a socket: a PollcastProvider around the component, or the option")
  const store = topic === null ? null : liveStore(socket, topic, options)
  const state = useSyncExternalStore(store?.subscribe ?? none, store?.get ?? nothing, nothing)
  const [, render] = useReducer((count: number) => count + 1, 0)
  const { tick } = options
  useEffect(() => {
    if (!tick) return
    const ticking = setInterval(render, tick)
    return () => clearInterval(ticking)
  }, [tick])
  return { ...state, rows: state.rows as readonly R[], age: ageOf(state) }
}
