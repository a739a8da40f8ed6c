/**
 * A phoenix.js Socket that reconnects quickly, with jitter, and renews its token.
 *
 * Each connection is opened with a token from the token source. Before that token expires, the source is called for the
 * next one, which is sent to the gateway on a joined channel (event `access_token`) without an interruption. If the
 * token is not renewed in time, or no channel is joined, the gateway closes the connection with 4001 ten seconds after
 * the expiry, and the next connection is opened with a fresh token.
 */
import { Socket, type Channel } from "phoenix"
import { message, type Integers } from "./json.js"
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
  /** Options for phoenix.js's Socket (`transport`, `reconnectAfterMs`, …), which override this client's. */
  socket?: object
}

/** Maximum pauses before the first attempts to connect, or to join, again. */
const RECONNECT_MS = [100, 250, 500, 1000, 2000]
/** Maximum pause before each later attempt. */
const LATEST_RECONNECT_MS = 5000
/** Pause before a new token is sent again when no channel was joined. */
const NO_CHANNEL_MS = 1000
/** Pause before the token source is called again when it returned no new token. */
const AGAIN_MS = 5000
/** The longest time that setTimeout accepts. */
const LONGEST_TIMER_MS = 2 ** 31 - 1

/** Returns the pause before an attempt (counted from 1), in milliseconds, with jitter. */
function wait(tries: number): number {
  return (RECONNECT_MS[tries - 1] ?? LATEST_RECONNECT_MS) * (0.5 + Math.random() / 2)
}

/** A phoenix.js Socket that reconnects quickly and renews its token; see `connect`. */
export class LiveSocket extends Socket {
  /** The token with which the current connection was opened or last renewed. */
  token: string | null = null
  private readonly source: TokenSource | null
  private readonly onTokenRefused: NonNullable<ConnectOptions["onTokenRefused"]>
  private readonly opened = new Set<Channel>()
  private timer: ReturnType<typeof setTimeout> | undefined
  private attempt = 0
  private failures = 0

  constructor(url: string, { token, onTokenRefused, integers, socket }: ConnectOptions = {}) {
    super(url, {
      decode: (text, use) => void use(message(text, integers)),
      reconnectAfterMs: wait,
      rejoinAfterMs: wait,
      heartbeatIntervalMs: 20_000,
      ...socket,
    })
    this.source = token ?? null
    const log = (_: string, { reason, detail }: Refusal): void =>
      console.error(`the gateway refused the new token: ${reason}: ${detail}`)
    this.onTokenRefused = onTokenRefused ?? log
    this.onOpen(() => this.scheduleRenewal())
    this.onClose(() => clearTimeout(this.timer))
  }

  /** Opens a connection with a token from the source. phoenix.js calls it for each connection. */
  override connect(): void {
    const attempt = (this.attempt += 1)
    if (typeof this.source !== "function") {
      this.open(this.token ?? this.source)
      return
    }
    void this.nextToken(null).then((token) => {
      if (attempt !== this.attempt) return // `disconnect` or another `connect` was called meanwhile
      if (token === undefined) {
        this.timer = setTimeout(() => attempt === this.attempt && this.connect(), wait((this.failures += 1)))
        return
      }
      this.failures = 0
      this.open(token)
    })
  }

  /** Closes the connection and opens no other until `connect` is called. */
  override disconnect(callback?: () => void | Promise<void>, code?: number, reason?: string): void {
    this.attempt += 1
    clearTimeout(this.timer)
    super.disconnect(callback, code, reason)
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

  private open(token: string | null): void {
    this.token = token
    // A property of phoenix.js that @types/phoenix lacks.
    const presented = this as unknown as { authToken?: () => string }
    if (token !== null) presented.authToken = () => token
    else if (this.source !== null) delete presented.authToken
    super.connect()
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
