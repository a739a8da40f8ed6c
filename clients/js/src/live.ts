/** The watch of one topic over a Phoenix socket. Any number of watches of a topic share one channel. */
import type { Socket } from "phoenix"
import type { Change, Listed, Meta, Status, WatchOptions } from "./change.js"
import type { QueryName, RowOf, Topic } from "./queries.js"
import type { Result } from "./result.js"
import { LiveSocket } from "./socket.js"
import { subscription, type Subscription, type Watcher } from "./subscription.js"

/** The watch of one topic, from its creation until `stop()`. */
export class LiveQuery {
  private readonly subscription: Subscription
  private readonly watcher: Watcher & { options: WatchOptions }
  private stopped: Status | null = null

  constructor(
    private readonly socket: Socket,
    readonly topic: string,
    options: WatchOptions,
    onChange: (change: Change) => void,
  ) {
    const take = (change: Change): void => {
      try {
        onChange(change)
      } catch (error) {
        // The other watches, and the connection, go on.
        setTimeout(() => {
          throw error
        })
      }
    }
    this.watcher = { options: { ...options }, take }
    this.subscription = subscription(socket, topic)
    this.subscription.attach(this.watcher)
  }

  /** The current result; null until the first one arrives. */
  get result(): Result | null {
    return this.subscription.result
  }

  /** The current status. */
  get status(): Status {
    return this.stopped ?? this.subscription.status
  }

  /** The topic's members. */
  get presence(): readonly Listed[] {
    return this.subscription.presence
  }

  /** Replaces the meta that other members of the topic see. The topic has to be watched with a presence. */
  setMeta(meta: Meta): void {
    this.watcher.options.presence = { ...this.watcher.options.presence, meta }
    if (!this.stopped) this.subscription.present()
  }

  /**
   * Sends a new token on the connection, before the old one expires. Not needed when `connect` has a token function.
   */
  renew(token: string): void {
    if (this.socket instanceof LiveSocket) this.socket.renew(token)
    else this.subscription.push("access_token", { token })
  }

  /** Ends this watch: `onChange` is not called any more. Other watches of the topic go on. */
  stop(): void {
    if (this.stopped) return
    const { state } = this.subscription.status
    this.stopped = state === "failed" ? this.subscription.status : { state: "closed", reason: "stopped", since: new Date().toISOString() }
    this.subscription.detach(this.watcher)
  }
}

/**
 * Watches a topic (`live:orders?region=north`) until `stop()` of the returned object is called. `onChange` is called
 * with each change. The socket stays open after `stop()`: it is the caller's. The rows of a declared query (`Queries`)
 * have its type, if the topic comes from `topic` or the query's name is given: `watch<"orders">(…)`.
 */
export function watch<Q extends QueryName>(
  socket: Socket,
  topic: Topic<Q>,
  options: WatchOptions,
  onChange: (change: Change<RowOf<Q>>) => void,
): LiveQuery
export function watch(
  socket: Socket,
  topic: string,
  options: WatchOptions,
  onChange: (change: Change) => void,
): LiveQuery
export function watch<Q extends QueryName>(
  socket: Socket,
  topic: `live:${Q}` | `live:${Q}?${string}`,
  options: WatchOptions,
  onChange: (change: Change<RowOf<Q>>) => void,
): LiveQuery
export function watch(
  socket: Socket,
  topic: string,
  options: WatchOptions,
  onChange: (change: Change) => void,
): LiveQuery {
  return new LiveQuery(socket, topic, options, onChange)
}
