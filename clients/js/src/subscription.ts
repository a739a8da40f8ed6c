/**
 * The one channel of a topic on a socket, which all watches of the topic share.
 *
 * It joins the topic at once, and again on each later connection, with its version as `since`, so that the gateway
 * sends only the deltas that are missing. A topic that gets out of step is joined again after a pause that doubles; a
 * refused join, or a result that this client cannot follow, is final. It leaves when its last watch has stopped.
 */
import { Presence, type Channel, type Socket } from "phoenix"
import { resyncPause } from "./backoff.js"
import type { Change, Listed, Status, WatchOptions } from "./change.js"
import { KeyRounded, ProtocolViolated, Result, type DeltaPayload, type SnapshotPayload } from "./result.js"
import { LiveSocket, type Outage, type Refusal } from "./socket.js"

/** A watch, as its subscription sees it. */
export interface Watcher {
  readonly options: WatchOptions
  /** Reports a change. It must not throw. */
  take(change: Change): void
}

/** The reasons of a refused join after which phoenix.js joins again. */
const TRANSIENT_REASONS = new Set(["too_many_joins"])
/** Number of deltas in a row that may not fit before the subscription ends. */
const MOST_MISFITS = 3
/** Time without trouble after which trouble counts as new. */
const CALM_MS = 60_000

const subscriptions = new WeakMap<Socket, Map<string, Subscription>>()

/** Returns the subscription of a topic on a socket; creates it for its first watch. */
export function subscription(socket: Socket, topic: string): Subscription {
  let topics = subscriptions.get(socket)
  if (!topics) subscriptions.set(socket, (topics = new Map()))
  let found = topics.get(topic)
  if (!found) topics.set(topic, (found = new Subscription(socket, topic, topics)))
  return found
}

/** The state of a topic on a socket: its result, status and members. */
export class Subscription {
  result: Result | null = null
  status: Status = { state: "connecting", reason: null, since: null }
  presence: readonly Listed[] = []
  /** The status is this client's own: the gateway has sent none on this connection. */
  private own = true
  private readonly watchers = new Set<Watcher>()
  private channel: Channel | null = null
  private member: WatchOptions["presence"]
  private misfits = 0
  private troubles = 0
  private troubled = 0
  private resync: ReturnType<typeof setTimeout> | undefined
  private readonly unlisten: () => void

  constructor(
    private readonly socket: Socket,
    private readonly topic: string,
    private readonly topics: Map<string, Subscription>,
  ) {
    this.unlisten = socket instanceof LiveSocket ? socket.onOutage((outage) => this.suspend(outage)) : () => undefined
    if (socket instanceof LiveSocket && socket.outage) this.status = statusOf(socket.outage)
  }

  /** Adds a watch. It gets the present state of a topic that others watch soon, but not during this call. */
  attach(watcher: Watcher): void {
    this.watchers.add(watcher)
    this.present()
    if (!this.channel && this.resync === undefined) this.open()
    if (this.result) queueMicrotask(() => this.greet(watcher))
    else if (this.status.state !== "connecting") queueMicrotask(() => this.show(watcher, "status"))
  }

  /** Removes a watch, and leaves the topic if it was the last one. */
  detach(watcher: Watcher): void {
    if (!this.watchers.delete(watcher)) return
    if (this.watchers.size) this.present()
    else this.end()
  }

  /** Sends an event on the joined topic. */
  push(event: string, payload: object): void {
    this.channel?.push(event, payload)
  }

  /** Applies the presence that the watches ask for, which is that of the last one to have any. */
  present(): void {
    const before = this.member
    const wanted = [...this.watchers].findLast(({ options }) => options.presence)?.options.presence
    if (JSON.stringify(before) === JSON.stringify(wanted)) return
    this.member = structuredClone(wanted)
    if (!this.channel) return
    if (before && wanted && before.key === wanted.key) this.push("presence", { meta: wanted.meta ?? {} })
    else this.open()
  }

  private greet(watcher: Watcher): void {
    this.show(watcher, "snapshot")
    if (this.presence.length) this.show(watcher, "presence")
  }

  /** Joins the topic on a new channel, in place of the one before. */
  private open(): void {
    const before = this.channel
    this.channel = null
    before?.leave()
    this.resync = undefined
    const channel = this.socket.channel(this.topic, () => this.joinPayload())
    this.channel = channel
    const current = (): boolean => this.channel === channel
    channel.on("snapshot", (payload: SnapshotPayload) => {
      if (current()) this.take("snapshot", () => Result.ofSnapshot(payload, this.result))
    })
    channel.on("delta", (payload: DeltaPayload) => {
      if (current()) this.take("delta", () => this.after(payload), payload)
    })
    channel.on("status", (status: Status) => {
      if (current()) this.setStatus(status)
    })
    const presence = new Presence(channel)
    presence.onSync(() => {
      if (!current()) return
      this.presence = presence.list((key: string, entry: { metas: Listed["metas"] }) => ({ key, metas: entry.metas }))
      this.emit("presence")
    })
    channel.onError(() => {
      if (!current()) return
      if (this.socket.isConnected()) this.rejoin("the gateway reports an error")
      else if (!this.own || !this.status.reason) this.suspend({ kind: "lost", reason: "not connected" })
    })
    channel.onClose(() => {
      if (current()) this.rejoin("the gateway closed the topic")
    })
    channel
      .join()
      .receive("ok", () => {
        if (current() && this.own) this.setStatus(this.result ? LIVE : CONNECTING, true)
      })
      .receive("error", (refusal: Refusal) => {
        if (!current() || TRANSIENT_REASONS.has(refusal.reason)) return
        const watchers = this.end()
        for (const { options } of watchers) {
          if (options.onRefused) options.onRefused(refusal)
          else console.error(`${this.topic}: ${refusal.reason}: ${refusal.detail}`)
        }
        this.fail(`${refusal.reason}: ${refusal.detail}`, watchers)
      })
  }

  private joinPayload(): object {
    const payload: Record<string, unknown> = {}
    if (this.result) payload["since"] = this.result.version
    if ([...this.watchers].every(({ options }) => options.deltas === false)) payload["deltas"] = false
    if (this.member) payload["presence"] = this.member
    return payload
  }

  private after(payload: DeltaPayload): Result {
    if (!this.result) throw new ProtocolViolated("a delta before any snapshot")
    return this.result.after(payload)
  }

  private take(kind: "snapshot" | "delta", next: () => Result, delta: DeltaPayload | null = null): void {
    try {
      this.result = next()
    } catch (error) {
      const deep = error instanceof RangeError
      if (!(deep || error instanceof ProtocolViolated || error instanceof KeyRounded)) throw error
      const why = deep ? "a row key is nested too deeply" : error.message
      this.misfits += 1
      // The gateway would send the same snapshot again.
      if (deep || kind === "snapshot" || error instanceof KeyRounded || this.misfits >= MOST_MISFITS) {
        console.error(`${this.topic}: ${why}`)
        this.fail(why, this.end())
      } else {
        console.error(`${this.topic}: ${why}; joining again`)
        this.result = null
        this.rejoin("out of step with the gateway")
      }
      return
    }
    if (kind === "delta") this.misfits = 0
    if (this.status.state === "connecting") this.status = LIVE
    this.emit(kind, delta)
  }

  /** Leaves the topic and joins it again after a pause. */
  private rejoin(reason: string): void {
    const { channel } = this
    this.channel = null
    channel?.leave()
    const now = Date.now()
    this.troubles = now - this.troubled > CALM_MS ? 1 : this.troubles + 1
    this.troubled = now
    clearTimeout(this.resync)
    this.resync = setTimeout(() => this.open(), resyncPause(this.troubles))
    if (this.status.state !== "failed") this.suspend({ kind: "lost", reason })
  }

  /** Leaves the topic for good; returns the watches. */
  private end(): Watcher[] {
    const { channel } = this
    const watchers = [...this.watchers]
    this.unlisten()
    this.watchers.clear()
    clearTimeout(this.resync)
    this.channel = null
    channel?.leave()
    if (this.topics.get(this.topic) === this) this.topics.delete(this.topic)
    return watchers
  }

  /** Reports to the watches of an ended subscription that it failed; the last result is kept. */
  private fail(reason: string, watchers: readonly Watcher[]): void {
    this.status = { state: "failed", reason, since: new Date().toISOString() }
    for (const watcher of watchers) watcher.take(this.change("status"))
  }

  private suspend(outage: Outage): void {
    if (outage.kind === "failed") this.fail(outage.reason, this.end())
    else this.setStatus(statusOf(outage), true)
  }

  private setStatus(status: Status, own = false): void {
    this.own = own
    const { state, reason } = this.status
    const same = state === status.state && reason === status.reason
    if (same && own) return
    this.status = status
    this.emit("status")
  }

  private emit(kind: Change["kind"], delta: DeltaPayload | null = null): void {
    for (const watcher of [...this.watchers]) this.show(watcher, kind, delta)
  }

  private show(watcher: Watcher, kind: Change["kind"], delta: DeltaPayload | null = null): void {
    if (!this.watchers.has(watcher)) return
    const whole = kind === "delta" && watcher.options.deltas === false
    watcher.take(whole ? this.change("snapshot") : this.change(kind, delta))
  }

  private change(kind: Change["kind"], delta: DeltaPayload | null = null): Change {
    const { result, status, presence } = this
    return { kind, result, rows: result?.rows ?? [], status, presence, delta }
  }
}

const LIVE: Status = { state: "live", reason: null, since: null }
const CONNECTING: Status = { state: "connecting", reason: null, since: null }

function statusOf({ kind, reason }: Outage): Status {
  return { state: kind === "closed" ? "closed" : "stale", reason, since: new Date().toISOString() }
}
