/**
 * A phoenix.js Socket that reconnects quickly, with jitter, and renews its token.
 *
 * Each connection is opened with a token from the token source. Before that token expires, the source is called for the
 * next one, which is sent to the gateway on a joined channel (event `access_token`) without an interruption. If the
 * token is not renewed in time, or no channel is joined, the gateway closes the connection with 4001 ten seconds after
 * the expiry, and the next connection is opened with a fresh token.
 */
import { Socket, type Channel } from "phoenix"
import { reconnectPause } from "./backoff.js"
import { message, type Integers } from "./json.js"
import { observeNetwork, type NetworkEvent } from "./network.js"
import { pokeUrl, sendPoke } from "./poke.js"
import { expiresAt, renewIn, type TokenSource } from "./token.js"

/** The gateway's refusal of a join or a token. */
export interface Refusal {
  /** A word of the protocol: `unknown_query`, `invalid_params`, `forbidden`, `unauthorized`, … */
  reason: string
  /** A sentence for people. */
  detail: string
}

/** The options of `connect` and `LiveSocket`. */
export interface ConnectOptions {
  /**
   * The token, sent in the WebSocket's subprotocol and not in its address; or a function that returns one when needed.
   */
  token?: TokenSource
  /**
   * Called when the gateway refuses a token that should renew another; the reason is `forbidden` when the two belong to
   * different subjects. By default the refusal is logged on the console.
   */
  onTokenRefused?: (token: string, refusal: Refusal) => void
  /**
   * The form of integers beyond ±(2^53 − 1) in rows: `"bigint"` (the default) or `"string"`, which are exact, or
   * `"number"`, which is rounded. Row keys are compared exactly in each case.
   */
  integers?: Integers
  /**
   * Time between heartbeats, in milliseconds, 20000 by default: a connection that is dead without a sign is noticed
   * after twice that time at the latest.
   */
  heartbeatMs?: number
  /** Options for phoenix.js's Socket (`transport`, `reconnectAfterMs`, …), which override this client's. */
  socket?: object
}

/** Pause before a new token is sent again when no channel was joined. */
const NO_CHANNEL_MS = 1000
/** Pause before the token source is called again when it returned no new token. */
const AGAIN_MS = 5000
/** The longest time that setTimeout accepts. */
const LONGEST_TIMER_MS = 2 ** 31 - 1

/** Time within which a connection has to open. */
const OPEN_MS = 10_000
/** Time for which a connection has to stay open so that the next reconnect is quick again. */
const STABLE_MS = 5000
/** Time within which the gateway has to answer when the network may have changed. */
const PROBE_MS = 3000
/** The close codes that blame a message of this client: sending it again would have the same effect. */
const CLIENT_FAULTS = new Set([1003, 1007, 1009])

/**
 * The reason that a socket has no connection: `offline` and `lost` are transient, `closed` lasts until `connect` is
 * called, `failed` is final. `reason` is a sentence for people.
 */
export interface Outage {
  kind: "offline" | "lost" | "closed" | "failed"
  reason: string
}

/** A phoenix.js Socket that reconnects quickly and renews its token; see `connect`. */
export class LiveSocket extends Socket {
  /** The token with which the current connection was opened or last renewed. */
  token: string | null = null
  private readonly source: TokenSource | null
  private readonly onTokenRefused: NonNullable<ConnectOptions["onTokenRefused"]>
  /** Why there is no connection at the moment; null while there is one, and before the first. */
  outage: Outage | null = null
  private readonly opened = new Set<Channel>()
  private readonly listeners = new Set<(outage: Outage) => void>()
  private readonly backoff: { failures: number }
  private unobserve: (() => void) | null = null
  /** The timer of the token's renewal. */
  private timer: ReturnType<typeof setTimeout> | undefined
  /** The timer of the next attempt to connect, of a connection that has to open, or that has to stay open. */
  private pending: ReturnType<typeof setTimeout> | undefined
  private probing: ReturnType<typeof setTimeout> | undefined
  private attempt = 0
  /** The start of the last attempt to connect, in milliseconds since the Unix epoch. */
  private began = 0
  /** This socket gave the connection up: what is still heard of it does not count. */
  private abandoned = false

  constructor(url: string, { token, onTokenRefused, integers, heartbeatMs, socket }: ConnectOptions = {}) {
    const backoff = { failures: 0 }
    super(url, {
      decode: (text, use) => void use(message(text, integers)),
      // phoenix.js counts from 1 after each connection that opened, even if it is closed at once, again and again.
      reconnectAfterMs: () => reconnectPause((backoff.failures += 1)),
      rejoinAfterMs: reconnectPause,
      heartbeatIntervalMs: heartbeatMs ?? 20_000,
      ...socket,
    })
    this.backoff = backoff
    this.source = token ?? null
    const log = (_: string, { reason, detail }: Refusal): void =>
      console.error(`the gateway refused the new token: ${reason}: ${detail}`)
    this.onTokenRefused = onTokenRefused ?? log
    this.onOpen(() => this.opens())
    this.onClose((event) => this.closes(event as CloseEvent))
  }

  /** Opens a connection with a token from the source. phoenix.js calls it for each connection. */
  override connect(): void {
    if (this.outage?.kind === "closed" || this.outage?.kind === "failed") this.outage = null
    this.began = Date.now()
    this.unobserve ??= observeNetwork((event) => this.networkChanged(event))
    clearTimeout(this.pending)
    const attempt = (this.attempt += 1)
    if (typeof this.source !== "function") {
      this.open(this.token ?? this.source)
      return
    }
    void this.nextToken(null).then((token) => {
      if (attempt !== this.attempt) return // `disconnect` or another `connect` was called meanwhile
      if (token === undefined) this.connectIn(reconnectPause((this.backoff.failures += 1)))
      else this.open(token)
    })
  }

  /** Closes the connection and opens no other until `connect` is called. */
  override disconnect(callback?: () => void | Promise<void>, code?: number, reason?: string): void {
    this.unobserve?.()
    this.unobserve = null
    this.abandon({ kind: "closed", reason: "disconnected" }, callback, code, reason)
  }

  /** Calls `listener` at the beginning of each outage, until the returned function is called. */
  onOutage(listener: (outage: Outage) => void): () => void {
    this.listeners.add(listener)
    return () => void this.listeners.delete(listener)
  }

  /** Returns a new channel, which may later carry a token to the gateway. */
  override channel(topic: string, params?: object): Channel {
    const channel = super.channel(topic, params)
    this.opened.add(channel)
    return channel
  }

  /** Removes a channel that was left. phoenix.js calls it. */
  override remove(channel: Channel): void {
    this.opened.delete(channel)
    super.remove(channel)
  }

  /**
   * Sends a new token on the open connection, before the old one expires. Later connections are opened with it as well,
   * unless the token source is a function.
   */
  renew(token: string): void {
    clearTimeout(this.timer)
    this.sendToken(token)
  }

  /**
   * Has a topic polled at once, because something changed: by an HTTP request to the gateway, with the socket's token.
   * The name of a query alone means all its topics. Returns the number of topics that are polled for it; throws
   * PokeRefused when the gateway refuses the poke, and what `fetch` throws when it does not answer.
   */
  async poke(topic: string): Promise<number> {
    const token = this.token ?? (await this.nextToken(null)) ?? null
    return sendPoke(pokeUrl(this.endPointURL().replace(/^http/, "ws"), topic), token)
  }

  private open(token: string | null): void {
    this.token = token
    this.abandoned = false
    clearTimeout(this.pending)
    this.pending = setTimeout(() => {
      if (!this.isConnected()) this.reopen({ kind: "lost", reason: "the gateway does not answer" })
    }, OPEN_MS)
    // A property of phoenix.js that @types/phoenix lacks.
    const presented = this as unknown as { authToken?: () => string }
    if (token !== null) presented.authToken = () => token
    else if (this.source !== null) delete presented.authToken
    super.connect()
  }

  private opens(): void {
    this.outage = null
    clearTimeout(this.pending)
    this.pending = setTimeout(() => (this.backoff.failures = 0), STABLE_MS)
    this.scheduleRenewal()
  }

  private closes({ code, reason }: CloseEvent): void {
    if (this.abandoned) return
    for (const timer of [this.timer, this.probing, this.pending]) clearTimeout(timer)
    if (CLIENT_FAULTS.has(code)) {
      this.begin({ kind: "failed", reason: `the gateway refused a message of this client: ${reason || code}` })
      this.disconnect()
    } else if (!this.outage) this.begin({ kind: "lost", reason: "not connected" })
  }

  /** Gives the connection up and opens another one after the usual pause. */
  private reopen(outage: Outage): void {
    this.abandon(outage)
    this.connectIn(reconnectPause((this.backoff.failures += 1)))
  }

  private connectIn(ms: number): void {
    clearTimeout(this.pending)
    this.pending = setTimeout(() => this.connect(), ms)
  }

  private abandon(outage: Outage, callback?: () => void | Promise<void>, code?: number, reason?: string): void {
    this.attempt += 1
    this.abandoned = true
    for (const timer of [this.timer, this.probing, this.pending]) clearTimeout(timer)
    if (this.outage?.kind !== "failed") this.begin(outage)
    super.disconnect(callback, code, reason)
  }

  private begin(outage: Outage): void {
    this.outage = outage
    for (const listener of [...this.listeners]) listener(outage)
  }

  private networkChanged(event: NetworkEvent): void {
    // A browser may be wrong about the network, so attempts to connect go on.
    if (event === "offline") this.reopen({ kind: "offline", reason: "offline" })
    else if (this.isConnected()) this.probe()
    else if (Date.now() - this.began > PROBE_MS) {
      this.backoff.failures = 0
      this.abandon(this.outage ?? { kind: "lost", reason: "not connected" })
      this.connect()
    }
  }

  /** Asks the gateway for a sign of life, and opens another connection if there is none. */
  private probe(): void {
    clearTimeout(this.probing)
    this.probing = setTimeout(() => this.reopen({ kind: "lost", reason: "the gateway does not answer" }), PROBE_MS)
    const { probing } = this
    this.ping(() => clearTimeout(probing))
  }

  /** Sets the timer for the renewal of the current token. */
  private scheduleRenewal(): void {
    clearTimeout(this.timer)
    const expiring = this.token
    const at = expiring === null ? null : expiresAt(expiring)
    const ms = at === null ? null : renewIn(at, Date.now())
    if (expiring === null || ms === null || typeof this.source !== "function") return
    this.timer = setTimeout(() => void this.replace(expiring), Math.min(ms, LONGEST_TIMER_MS))
  }

  /** Gets the next token from the source and sends it, or tries again later. */
  private async replace(expiring: string): Promise<void> {
    const attempt = this.attempt
    const token = await this.nextToken(expiring)
    if (attempt !== this.attempt || this.token !== expiring) return
    if (token === undefined || token === null || token === expiring) {
      this.timer = setTimeout(() => void this.replace(expiring), AGAIN_MS)
      return
    }
    this.sendToken(token)
  }

  /**
   * Sends a token on a joined channel. Without one it tries again until a channel is joined or the connection closes.
   */
  private sendToken(token: string): void {
    const channel = [...this.opened].find(({ state }) => state === "joined")
    if (!channel || !this.isConnected()) {
      if (typeof this.source !== "function") this.token = token
      this.timer = setTimeout(() => this.sendToken(token), NO_CHANNEL_MS)
      return
    }
    const before = this.token
    this.token = token
    channel
      .push("access_token", { token })
      .receive("ok", () => this.scheduleRenewal())
      .receive("error", (refusal: Refusal) => {
        if (this.token === token) this.token = before
        if (typeof this.source === "function" && before !== null) {
          this.timer = setTimeout(() => void this.replace(before), AGAIN_MS)
        }
        this.onTokenRefused(token, refusal)
      })
  }

  /** Returns a token from the source, null when no token is needed, undefined when the source failed. */
  private async nextToken(expiring: string | null): Promise<string | null | undefined> {
    if (typeof this.source !== "function") return this.source
    try {
      return await this.source(expiring)
    } catch (error) {
      console.error("the token source failed:", error)
      return undefined
    }
  }
}

/**
 * Returns a connecting socket. `url` is the address of a gateway's socket: `/socket` in a browser, `wss://host/socket`.
 */
export function connect(url: string, options: ConnectOptions = {}): LiveSocket {
  const socket = new LiveSocket(url, options)
  socket.connect()
  return socket
}
