/** The values that a watch reports: a topic's result, status and members after each change. */
import type { Json } from "./json.js"
import type { DeltaPayload, Result, Row } from "./result.js"
import type { Refusal } from "./socket.js"

/** The state of a topic. */
export interface Status {
  /**
   * `connecting`: nothing is known yet. `live`: the result is current. `stale`: it may be out of date, for a transient
   * reason, such as a lost connection. `failed`: the query itself is at fault, as with an SQL error or too many rows, or
   * the gateway refused the topic. `closed`: the watch has stopped, or its socket was disconnected.
   */
  state: "connecting" | "live" | "stale" | "failed" | "closed"
  /** The reason for `stale`, `failed` or `closed`. */
  reason: string | null
  /** The time since when the state holds, in RFC 3339; null until a status was sent, or the connection was lost. */
  since: string | null
}

/** The data that a member of a topic shows to the others. */
export type Meta = { [name: string]: Json }
/** A member of a topic: its key, and one meta for each of its connections (`online_at` in RFC 3339). */
export type Listed = { key: string; metas: (Meta & { phx_ref: string; online_at: string })[] }

/** The topic after one change. */
export interface Change<R extends object = Row> {
  /** The message that caused the change. */
  kind: "snapshot" | "delta" | "status" | "presence"
  /** The whole result after the change; null until the first one arrives. */
  result: Result | null
  /**
   * The result's rows in the query's order; empty until the first result arrives. A row that did not change is the same
   * object as before.
   */
  rows: readonly R[]
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
   * Watches of one topic share one membership: that of the last one to have any.
   */
  presence?: { key?: string; meta?: Meta }
  /** Set to false to receive every change as a snapshot. */
  deltas?: boolean
  /**
   * Called when the gateway refuses the topic; the watch has then stopped, with the status `failed`. By default it is
   * logged on the console.
   */
  onRefused?: (refusal: Refusal) => void
}
