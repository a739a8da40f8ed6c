/**
 * One topic, followed over a Phoenix socket.
 *
 * It joins at once, and again whenever phoenix.js has a connection again, with the version that it has as `since`: then
 * only what is missing comes. While there is no connection the status is `stale`. What the gateway refuses for good is
 * told to `onRefused`, and ends it.
 */
import { Presence, type Channel, type Socket } from "phoenix"
import { LiveSocket, type Refusal } from "./socket.js"
import { ProtocolViolated, Result, type DeltaPayload, type Json, type Row, type SnapshotPayload } from "./result.js"

export interface Status {
  /** `stale`: what is shown may be old, for a passing reason. `failed`: the query's own fault. */
  state: "live" | "stale" | "failed"
  reason: string | null
  /** RFC 3339; null before the gateway has said anything. */
  since: string | null
}

export type Meta = { [name: string]: Json }
export type Listed = { key: string; metas: (Meta & { phx_ref: string; online_at: string })[] }

export interface Change {
  kind: "snapshot" | "delta" | "status" | "presence"
  /** The whole result after the change; null while there is none yet. */
  result: Result | null
  /** The result's rows; empty while there is none yet. */
  rows: readonly Row[]
  status: Status
  /** Who is on the topic, by key. */
  presence: readonly Listed[]
  /** What came, when `kind` is `delta`. */
  delta: DeltaPayload | null
}

export interface WatchOptions {
  /** Says who one is, on queries with presence; with tokens, the token's `sub` is the key. */
  presence?: { key?: string; meta?: Meta }
  /** False: every change comes as a snapshot. */
  deltas?: boolean
  /** The gateway says no, and will say so again. Without it, a refusal is an error on the console. */
  onRefused?: (refusal: Refusal) => void
}

/** Reasons of a refused join that are worth another try, which phoenix.js makes. */
const PASSING = new Set(["too_many_joins"])

const RESYNC_MS = 1000

export class LiveQuery {
  result: Result | null = null
  status: Status = { state: "live", reason: null, since: null }
  presence: readonly Listed[] = []
  private channel: Channel | null = null
  private lost = false
  private stopped = false

  constructor(
    private readonly socket: Socket,
    readonly topic: string,
    private readonly options: WatchOptions,
    private readonly onChange: (change: Change) => void,
  ) {
    this.open()
  }

  /** Says something else about oneself, on a topic that was joined with a presence. */
  setMeta(meta: Meta): void {
    this.options.presence = { ...this.options.presence, meta }
    this.channel?.push("presence", { meta })
  }

  /** Gives the connection a new token before the old one expires. Not needed where `connect` was given a function. */
  renew(token: string): void {
    if (this.socket instanceof LiveSocket) this.socket.renew(token)
    else this.channel?.push("access_token", { token })
  }

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
      if (current()) this.say(status)
    })
    const presence = new Presence(channel)
    presence.onSync(() => {
      if (!current()) return
      this.presence = presence.list((key: string, entry: { metas: Listed["metas"] }) => ({ key, metas: entry.metas }))
      this.emit("presence")
    })
    channel.onError(() => {
      if (!current() || this.lost) return
      this.say({ state: "stale", reason: "not connected", since: new Date().toISOString() })
      this.lost = true
    })
    channel
      .join()
      .receive("ok", () => current() && this.lost && this.say({ state: "live", reason: null, since: null }))
      .receive("error", (refusal: Refusal) => {
        if (!current() || PASSING.has(refusal.reason)) return
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
      if (!(error instanceof ProtocolViolated)) throw error
      console.error(`${this.topic}: ${error.message}; starting afresh`)
      this.startAfresh()
      return
    }
    this.emit(kind, delta)
  }

  /** What is known can't be trusted: the next join asks for everything. */
  private startAfresh(): void {
    this.channel?.leave()
    this.channel = null
    this.result = null
    this.say({ state: "stale", reason: "out of step with the gateway", since: new Date().toISOString() })
    this.lost = true
    setTimeout(() => this.stopped || this.open(), RESYNC_MS)
  }

  private say(status: Status): void {
    this.lost = false
    this.status = status
    this.emit("status")
  }

  private emit(kind: Change["kind"], delta: DeltaPayload | null = null): void {
    const { result, status, presence } = this
    this.onChange({ kind, result, rows: result?.rows ?? [], status, presence, delta })
  }
}

/** Follows a topic (`live:orders?region=north`) until `stop()`; the socket is the caller's. */
export function watch(
  socket: Socket,
  topic: string,
  options: WatchOptions,
  onChange: (change: Change) => void,
): LiveQuery {
  return new LiveQuery(socket, topic, options, onChange)
}
