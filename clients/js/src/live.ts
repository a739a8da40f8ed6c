/**
 * The watch of one topic over a Phoenix socket.
 *
 * It joins the topic at once, and again on each later connection, with its version as `since`, so that the gateway
 * sends only the deltas that are missing. Without a connection the topic's status is `stale`. A refused join ends the
 * watch and is reported to `onRefused`. A result that this client cannot follow ends it with the status `failed`.
 */
import { Presence, type Channel, type Socket } from "phoenix"
import { LiveSocket, type Refusal } from "./socket.js"
import type { Json } from "./json.js"
import { KeyRounded, ProtocolViolated, Result, type DeltaPayload, type Row, type SnapshotPayload } from "./result.js"

/** The state of a topic. */
export interface Status {
  /**
   * `live`: the result is current. `stale`: it may be out of date, for a transient reason. `failed`: the query itself
   * is at fault, as with an SQL error or too many rows.
   */
  state: "live" | "stale" | "failed"
  /** The reason for `stale` or `failed`. */
  reason: string | null
  /** The time since when the state holds, in RFC 3339; null until the gateway has sent a status. */
  since: string | null
}

/** The data that a member of a topic shows to the others. */
export type Meta = { [name: string]: Json }
/** A member of a topic: its key, and one meta for each of its connections (`online_at` in RFC 3339). */
export type Listed = { key: string; metas: (Meta & { phx_ref: string; online_at: string })[] }

/** The topic after one change. */
export interface Change {
  /** The message that caused the change. */
  kind: "snapshot" | "delta" | "status" | "presence"
  /** The whole result after the change; null until the first one arrives. */
  result: Result | null
  /** The result's rows in the query's order; empty until the first result arrives. */
  rows: readonly Row[]
  status: Status
  /** The topic's members. */
  presence: readonly Listed[]
  /** The difference from the result before; null unless `kind` is `delta`. */
  delta: DeltaPayload | null
}

/** The options of `watch`. */
export interface WatchOptions {
  /**
   * Makes the client a member of the topic, for queries with presence. With tokens, the key is the token's claim `sub`.
   */
  presence?: { key?: string; meta?: Meta }
  /** Set to false to receive every change as a snapshot. */
  deltas?: boolean
  /** Called when the gateway refuses the topic; the watch has then stopped. By default it is logged on the console. */
  onRefused?: (refusal: Refusal) => void
}

/** The reasons of a refused join after which phoenix.js joins again. */
const TRANSIENT_REASONS = new Set(["too_many_joins"])

/** Pause before a topic is joined again whose delta did not fit its result. */
const RESYNC_MS = 1000

/** Number of deltas in a row that may not fit before the watch ends. */
const MOST_MISFITS = 3

/** The watch of one topic, from its creation until `stop()`. */
export class LiveQuery {
  /** The current result; null until the first one arrives. */
  result: Result | null = null
  /** The current status. */
  status: Status = { state: "live", reason: null, since: null }
  /** The topic's members. */
  presence: readonly Listed[] = []
  private channel: Channel | null = null
  private disconnected = false
  private stopped = false
  private misfits = 0

  constructor(
    private readonly socket: Socket,
    readonly topic: string,
    private readonly options: WatchOptions,
    private readonly onChange: (change: Change) => void,
  ) {
    this.open()
  }

  /** Replaces the meta that other members of the topic see. The topic has to be watched with a presence. */
  setMeta(meta: Meta): void {
    this.options.presence = { ...this.options.presence, meta }
    this.channel?.push("presence", { meta })
  }

  /**
   * Sends a new token on the connection, before the old one expires. Not needed when `connect` has a token function.
   */
  renew(token: string): void {
    if (this.socket instanceof LiveSocket) this.socket.renew(token)
    else this.channel?.push("access_token", { token })
  }

  /** Leaves the topic. `onChange` is not called any more. */
  stop(): void {
    this.stopped = true
    this.channel?.leave()
    this.channel = null
  }

  private open(): void {
    const channel = this.socket.channel(this.topic, () => this.joinPayload())
    this.channel = channel
    const current = (): boolean => this.channel === channel && !this.stopped
    channel.on("snapshot", (payload: SnapshotPayload) => {
      if (current()) this.take("snapshot", () => Result.ofSnapshot(payload))
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
      if (!current() || this.disconnected) return
      this.setStatus({ state: "stale", reason: "not connected", since: new Date().toISOString() })
      this.disconnected = true
    })
    channel
      .join()
      .receive("ok", () => {
        if (current() && this.disconnected) this.setStatus({ state: "live", reason: null, since: null })
      })
      .receive("error", (refusal: Refusal) => {
        if (!current() || TRANSIENT_REASONS.has(refusal.reason)) return
        this.stop()
        if (this.options.onRefused) this.options.onRefused(refusal)
        else console.error(`${this.topic}: ${refusal.reason}: ${refusal.detail}`)
      })
  }

  private joinPayload(): object {
    const payload: Record<string, unknown> = {}
    if (this.result) payload["since"] = this.result.version
    if (this.options.deltas === false) payload["deltas"] = false
    if (this.options.presence) payload["presence"] = this.options.presence
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
      if (error instanceof RangeError) {
        this.fail("a row key is nested too deeply")
        return
      }
      if (!(error instanceof ProtocolViolated || error instanceof KeyRounded)) throw error
      this.misfits += 1
      // The gateway would send the same snapshot again.
      if (kind === "snapshot" || error instanceof KeyRounded || this.misfits >= MOST_MISFITS) this.fail(error.message)
      else this.resync(error.message)
      return
    }
    if (kind === "delta") this.misfits = 0
    this.emit(kind, delta)
  }

  /** Discards the result, which can no longer be trusted, and joins again for a snapshot. */
  private resync(why: string): void {
    console.error(`${this.topic}: ${why}; joining again`)
    this.channel?.leave()
    this.channel = null
    this.result = null
    this.setStatus({ state: "stale", reason: "out of step with the gateway", since: new Date().toISOString() })
    this.disconnected = true
    setTimeout(() => this.stopped || this.open(), RESYNC_MS)
  }

  /** Ends the watch with the status `failed`; the last result is kept. */
  private fail(reason: string): void {
    console.error(`${this.topic}: ${reason}`)
    this.stop()
    this.setStatus({ state: "failed", reason, since: new Date().toISOString() })
  }

  private setStatus(status: Status): void {
    this.disconnected = false
    this.status = status
    this.emit("status")
  }

  private emit(kind: Change["kind"], delta: DeltaPayload | null = null): void {
    const { result, status, presence } = this
    this.onChange({ kind, result, rows: result?.rows ?? [], status, presence, delta })
  }
}

/**
 * Watches a topic (`live:orders?region=north`) until `stop()` of the returned object is called. `onChange` is called
 * with each change. The socket stays open after `stop()`: it is the caller's.
 */
export function watch(
  socket: Socket,
  topic: string,
  options: WatchOptions,
  onChange: (change: Change) => void,
): LiveQuery {
  return new LiveQuery(socket, topic, options, onChange)
}
