/**
 * A phoenix.js Socket that reconnects quickly, and keeps its token fresh.
 *
 * Every connection is opened with what the token source gives then. Before that expires, the source is asked for the
 * next, which is told to the gateway on a joined channel (event `access_token`), so that nothing is interrupted. What is
 * not renewed in time, or where no channel is joined, costs a connection: the gateway closes it with 4001, ten seconds
 * after the expiry, and the next one is opened with a fresh token.
 */
import { Socket, type Channel } from "phoenix"
import { expiresAt, renewIn, type TokenSource } from "./token.js"

export interface Refusal {
  reason: string
  detail: string
}

export interface ConnectOptions {
  /** Travels in the subprotocol, not in the address. A function is asked whenever a fresh one is needed. */
  token?: TokenSource
  /** The gateway would not have a token as the renewal of another: `forbidden` when it is somebody else's. Without it,
   * that is an error on the console. */
  onTokenRefused?: (token: string, refusal: Refusal) => void
  /** phoenix.js's own options win over everything here. */
  socket?: object
}

const RECONNECT_MS = [100, 250, 500, 1000, 2000]
const LATEST_RECONNECT_MS = 5000
const NO_CHANNEL_MS = 1000
const AGAIN_MS = 5000
const LONGEST_TIMER_MS = 2 ** 31 - 1

function wait(tries: number): number {
  return (RECONNECT_MS[tries - 1] ?? LATEST_RECONNECT_MS) * (0.5 + Math.random() / 2)
}

export class LiveSocket extends Socket {
  /** What the present connection was opened, or last renewed, with. */
  token: string | null = null
  private readonly source: TokenSource | null
  private readonly onTokenRefused: NonNullable<ConnectOptions["onTokenRefused"]>
  private readonly opened = new Set<Channel>()
  private timer: ReturnType<typeof setTimeout> | undefined
  private attempt = 0
  private failures = 0

  constructor(url: string, { token, onTokenRefused, socket }: ConnectOptions = {}) {
    super(url, {
      reconnectAfterMs: wait,
      rejoinAfterMs: wait,
      heartbeatIntervalMs: 20_000,
      ...socket,
    })
    this.source = token ?? null
    this.onTokenRefused =
      onTokenRefused ?? ((_, { reason, detail }) => console.error(`the token is not renewed: ${reason}: ${detail}`))
    this.onOpen(() => this.expect())
    this.onClose(() => clearTimeout(this.timer))
  }

  /** phoenix.js calls it for each connection, the first and all later ones. */
  override connect(): void {
    const attempt = (this.attempt += 1)
    if (typeof this.source !== "function") {
      this.open(this.token ?? this.source)
      return
    }
    void this.ask(null).then((token) => {
      if (attempt !== this.attempt) return // disconnected, or connecting anew
      if (token === undefined) {
        this.timer = setTimeout(() => attempt === this.attempt && this.connect(), wait((this.failures += 1)))
        return
      }
      this.failures = 0
      this.open(token)
    })
  }

  override disconnect(callback?: () => void | Promise<void>, code?: number, reason?: string): void {
    this.attempt += 1
    clearTimeout(this.timer)
    super.disconnect(callback, code, reason)
  }

  override channel(topic: string, params?: object): Channel {
    const channel = super.channel(topic, params)
    this.opened.add(channel)
    return channel
  }

  override remove(channel: Channel): void {
    this.opened.delete(channel)
    super.remove(channel)
  }

  /** Gives the connection a new token before the old one expires. It counts for later connections too, unless there is
   * a function to ask. */
  renew(token: string): void {
    clearTimeout(this.timer)
    this.tell(token)
  }

  private open(token: string | null): void {
    this.token = token
    const presented = this as unknown as { authToken?: () => string } // a property of phoenix.js that its types lack
    if (token !== null) presented.authToken = () => token
    else if (this.source !== null) delete presented.authToken
    super.connect()
  }

  /** Sees to it that the token is renewed in time. */
  private expect(): void {
    clearTimeout(this.timer)
    const expiring = this.token
    const at = expiring === null ? null : expiresAt(expiring)
    const ms = at === null ? null : renewIn(at, Date.now())
    if (expiring === null || ms === null || typeof this.source !== "function") return
    this.timer = setTimeout(() => void this.replace(expiring), Math.min(ms, LONGEST_TIMER_MS))
  }

  private async replace(expiring: string): Promise<void> {
    const attempt = this.attempt
    const token = await this.ask(expiring)
    if (attempt !== this.attempt || this.token !== expiring) return
    if (token === undefined || token === null || token === expiring) {
      this.timer = setTimeout(() => void this.replace(expiring), AGAIN_MS)
      return
    }
    this.tell(token)
  }

  /** Where no channel is joined there is nobody to tell it to: it is tried until there is one, or no connection. */
  private tell(token: string): void {
    const channel = [...this.opened].find(({ state }) => state === "joined")
    if (!channel || !this.isConnected()) {
      if (typeof this.source !== "function") this.token = token
      this.timer = setTimeout(() => this.tell(token), NO_CHANNEL_MS)
      return
    }
    const before = this.token
    this.token = token
    channel
      .push("access_token", { token })
      .receive("ok", () => this.expect())
      .receive("error", (refusal: Refusal) => {
        if (this.token === token) this.token = before
        if (typeof this.source === "function" && before !== null) this.timer = setTimeout(() => void this.replace(before), AGAIN_MS)
        this.onTokenRefused(token, refusal)
      })
  }

  /** Undefined when the source has none to give now: it is asked again. */
  private async ask(expiring: string | null): Promise<string | null | undefined> {
    if (typeof this.source !== "function") return this.source
    try {
      return await this.source(expiring)
    } catch (error) {
      console.error("no token:", error)
      return undefined
    }
  }
}

/** A connected phoenix.js Socket, which reconnects quickly and with jitter. `url`: `/socket`, `wss://host/socket`. */
export function connect(url: string, options: ConnectOptions = {}): LiveSocket {
  const socket = new LiveSocket(url, options)
  socket.connect()
  return socket
}
