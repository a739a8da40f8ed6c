/** A composable for Vue 3.3 and later: `@pollcast/client/vue`. */
import type { Socket } from "phoenix"
import {
  computed,
  getCurrentScope,
  inject,
  onScopeDispose,
  shallowRef,
  toValue,
  watch as watchSource,
  type ComputedRef,
  type InjectionKey,
  type MaybeRefOrGetter,
  type Plugin,
} from "vue"
import type { Listed, Status } from "./change.js"
import type { QueryName, RowOf, Topic } from "./queries.js"
import type { Result, Row } from "./result.js"
import { ageOf, liveStore, NOTHING, type LiveOptions, type LiveState } from "./store.js"

/** The key under which `pollcast` provides the socket. */
export const SOCKET: InjectionKey<Socket> = Symbol("pollcast socket")

/** Returns a plugin that provides the socket (from `connect`) to all components: `app.use(pollcast(socket))`. */
export function pollcast(socket: Socket): Plugin {
  return { install: (app) => void app.provide(SOCKET, socket) }
}

/** The live state of a topic, as refs. */
export interface Live<R extends object = Row> {
  rows: ComputedRef<readonly R[]>
  status: ComputedRef<Status>
  presence: ComputedRef<readonly Listed[]>
  result: ComputedRef<Result | null>
  /** The time since the poll that first returned this result, in milliseconds, at the last change or tick. */
  age: ComputedRef<number | null>
}

/** The options of `useLive`, all optional. */
export interface UseLiveOptions extends LiveOptions {
  /** The socket; by default the one that the plugin provides. */
  socket?: Socket
  /** `age` is renewed each so many milliseconds; by default with each change. */
  tick?: number
}

/**
 * Returns the live state of a topic, which may be a ref or a getter; null means no topic. It ends with its component or
 * effect scope. Components with the same topic share one subscription.
 */
export function useLive<Q extends QueryName>(
  topic: MaybeRefOrGetter<Topic<Q> | null>,
  options?: UseLiveOptions,
): Live<RowOf<Q>>
export function useLive<R extends object = Row>(
  topic: MaybeRefOrGetter<string | null>,
  options?: UseLiveOptions,
): Live<R>
export function useLive<R extends object = Row>(
  topic: MaybeRefOrGetter<string | null>,
  options: UseLiveOptions = {},
): Live<R> {
  const socket = options.socket ?? inject(SOCKET, null)
  if (socket === null) throw new Error("useLive needs a socket: app.use(pollcast(socket)), or the option")
  const state = shallowRef<LiveState>(NOTHING)
  const ticks = shallowRef(0)
  const stop = watchSource(
    () => toValue(topic),
    (name, _, onCleanup) => {
      state.value = NOTHING
      if (name === null) return
      const store = liveStore(socket, name, options)
      const unsubscribe = store.subscribe(() => (state.value = store.get()))
      state.value = store.get()
      onCleanup(unsubscribe)
    },
    { immediate: true, flush: "sync" },
  )
  const ticking = options.tick ? setInterval(() => (ticks.value += 1), options.tick) : undefined
  if (getCurrentScope()) {
    onScopeDispose(() => {
      stop()
      clearInterval(ticking)
    })
  }
  return {
    rows: computed(() => state.value.rows as readonly R[]),
    status: computed(() => state.value.status),
    presence: computed(() => state.value.presence),
    result: computed(() => state.value.result),
    age: computed(() => (void ticks.value, ageOf(state.value))),
  }
}
