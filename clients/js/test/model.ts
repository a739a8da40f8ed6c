/**
 * A gateway in memory, under vitest's fake timers, with which clients are driven through schedules of losses.
 *
 * It keeps the protocol's promises (docs/reference/channels.md) and asserts that clients keep theirs: no topic is joined
 * twice on a connection, and no client is silent for a minute.
 */
import type { DeltaPayload, Row } from "../src/index.js"

const AT = "2026-01-01T00:00:00Z"
const LATENCY_MS = 5
const SILENCE_MS = 60_000
/** Number of versions from which a client may resume. */
const HISTORY = 5

type Message = [string | null, string | null, string, string, unknown]

/** Returns a generator of pseudo-random numbers from 0 to 1, the same for each seed. */
export function random(seed: number): () => number {
  let state = seed * 2654435761 + 1
  return () => {
    state = (state * 1103515245 + 12345) % 2147483648
    return state / 2147483648
  }
}

/** The rows of a topic, with the deltas of the latest versions. */
class Topic {
  rows: Row[] = []
  version = 1
  private history: DeltaPayload[] = []

  snapshot(key: string[]): object {
    return { version: `1-${this.version}`, polled_at: AT, key, rows: this.rows }
  }

  /** Inserts a row at a random place, or changes or deletes one; returns the delta. */
  change(next: () => number): DeltaPayload {
    const at = Math.floor(next() * (this.rows.length + 1))
    const old = this.rows[at]
    const [base, version] = [`1-${this.version}`, `1-${(this.version += 1)}`]
    const delta: DeltaPayload = { version, base, polled_at: AT, deletes: [], upserts: [] }
    if (old && next() < 0.5) {
      delta.deletes.push([old["id"]!])
      this.rows = this.rows.toSpliced(at, 1)
    } else {
      const row = { id: old ? old["id"]! : this.version, n: this.version }
      delta.upserts.push({ at, row })
      this.rows = this.rows.toSpliced(at, old ? 1 : 0, row)
    }
    this.history = [...this.history, delta].slice(-HISTORY)
    return delta
  }

  /** Returns the deltas after a version, or null if they are not kept any more. */
  after(version: string): DeltaPayload[] | null {
    if (version === `1-${this.version}`) return []
    const at = this.history.findIndex(({ base }) => base === version)
    return at < 0 ? null : this.history.slice(at)
  }
}

/** One WebSocket of a client. */
class Connection {
  readyState = 0
  bufferedAmount = 0
  binaryType = ""
  onopen: () => void = () => undefined
  onclose: (event: { code: number; reason: string }) => void = () => undefined
  onerror: (error: unknown) => void = () => undefined
  onmessage: (event: { data: string }) => void = () => undefined
  /** Nothing passes any more, without a sign. */
  frozen = false
  heard = Date.now()
  /** The join_ref of each joined topic. */
  readonly joined = new Map<string, string>()

  constructor(private readonly gateway: ModelGateway) {
    setTimeout(() => {
      if (this.readyState !== 0 || this.frozen || gateway.silent) return
      if (gateway.refusing) {
        this.lose(1006)
        return
      }
      this.readyState = 1
      this.heard = Date.now()
      this.onopen()
    }, LATENCY_MS)
  }

  send(text: string): void {
    if (this.readyState !== 1) throw new Error("a message on a WebSocket that is not open")
    setTimeout(() => {
      if (this.readyState === 1 && !this.frozen) this.gateway.take(this, JSON.parse(text) as Message)
    }, LATENCY_MS)
  }

  push(message: Message): void {
    setTimeout(() => {
      if (this.readyState === 1 && !this.frozen) this.onmessage({ data: JSON.stringify(message) })
    }, LATENCY_MS)
  }

  /** Ends the connection from the gateway's side. */
  lose(code: number, reason = ""): void {
    if (this.readyState === 3) return
    this.readyState = 3
    if (code === 1006) this.onerror(new Error("lost"))
    this.onclose({ code, reason })
  }

  close(): void {
    if (this.readyState >= 2) return
    this.readyState = 2
    // A peer that is gone does not confirm that the connection is closed.
    setTimeout(
      () => {
        if (this.readyState === 3) return
        this.readyState = 3
        this.onclose({ code: 1000, reason: "" })
      },
      this.frozen ? 30_000 : LATENCY_MS,
    )
  }
}

/** The model of a gateway; `transport` is a WebSocket class for phoenix.js. */
export class ModelGateway {
  readonly transport: object
  readonly topics = new Map<string, Topic>()
  connections: Connection[] = []
  /** Number of joins so far, and of connections. */
  joins = 0
  opened = 0
  /** Connections are refused; connections never open; joins are refused as too many. */
  refusing = false
  silent = false
  busy = false
  /** The names of the key columns. */
  key = ["id"]
  /** The status of all topics. */
  state: "live" | "stale" = "live"

  constructor() {
    const open = (): Connection => {
      const connection = new Connection(this)
      this.connections.push(connection)
      this.opened += 1
      return connection
    }
    this.transport = function () {
      return open()
    }
  }

  topic(name: string): Topic {
    let found = this.topics.get(name)
    if (!found) this.topics.set(name, (found = new Topic()))
    return found
  }

  /** The connections that a client uses. */
  get open(): Connection[] {
    this.connections = this.connections.filter(({ readyState }) => readyState < 3)
    return this.connections.filter(({ readyState }) => readyState === 1)
  }

  take(connection: Connection, [joinRef, ref, topic, event, payload]: Message): void {
    connection.heard = Date.now()
    const reply = (status: string, response: object): void =>
      connection.push([joinRef, ref, topic, "phx_reply", { status, response }])
    const current = connection.joined.get(topic)
    if (event === "phx_join") {
      this.joins += 1
      if (this.busy) return reply("error", { reason: "too_many_joins", detail: "" })
      if (current !== undefined) throw new Error(`${topic} is joined twice`)
      connection.joined.set(topic, joinRef!)
      this.welcome(connection, topic, payload as { since?: string }, reply)
    } else if (event === "heartbeat") reply("ok", {})
    else if (current === joinRef) {
      reply("ok", {})
      if (event === "phx_leave") this.end(connection, topic, "phx_close")
    }
  }

  private welcome(
    connection: Connection,
    name: string,
    { since }: { since?: string },
    reply: (status: string, response: object) => void,
  ): void {
    const topic = this.topic(name)
    reply("ok", { topic: name.slice(5), version: `1-${topic.version}`, interval_ms: 100 })
    if (this.state !== "live") connection.push([null, null, name, "status", this.status])
    const deltas = since === undefined ? null : topic.after(since)
    if (deltas) for (const delta of deltas) connection.push([null, null, name, "delta", delta])
    else connection.push([null, null, name, "snapshot", topic.snapshot(this.key)])
  }

  private get status(): object {
    return { state: this.state, reason: this.state === "live" ? null : "no database", since: AT }
  }

  /** Changes a topic's rows, and pushes the delta, or now and then a snapshot, as to a client that is slow. */
  change(name: string, next: () => number): void {
    const delta = this.topic(name).change(next)
    const whole = next() < 0.1
    this.broadcast(name, whole ? "snapshot" : "delta", whole ? this.topic(name).snapshot(this.key) : delta)
  }

  setState(state: "live" | "stale"): void {
    if (state === this.state) return
    this.state = state
    for (const name of this.topics.keys()) this.broadcast(name, "status", this.status)
  }

  /** Sends `phx_close` or `phx_error` of a topic to everyone. */
  drop(name: string, event: "phx_close" | "phx_error"): void {
    for (const connection of this.open) if (connection.joined.has(name)) this.end(connection, name, event)
  }

  /** Closes the connections that were silent for too long. */
  reap(): void {
    for (const connection of this.open) {
      if (connection.frozen || Date.now() - connection.heard < SILENCE_MS) continue
      throw new Error("a client was silent for a minute")
    }
  }

  private broadcast(name: string, event: string, payload: unknown): void {
    for (const connection of this.open) if (connection.joined.has(name)) connection.push([null, null, name, event, payload])
  }

  private end(connection: Connection, name: string, event: string): void {
    const joinRef = connection.joined.get(name)!
    connection.joined.delete(name)
    connection.push([joinRef, joinRef, name, event, {}])
  }
}
