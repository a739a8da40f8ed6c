/** Pokes: hints that a topic should be polled at once, over HTTP. */
import type { Refusal } from "./socket.js"

/** The error for a poke that the gateway refuses, with the gateway's reason and detail. */
export class PokeRefused extends Error implements Refusal {
  override name = "PokeRefused"

  constructor(
    readonly reason: string,
    readonly detail: string,
  ) {
    super(`${reason}: ${detail}`)
  }
}

/** Returns the address of a poke, from that of the gateway's socket and a topic. Throws TypeError for another address. */
export function pokeUrl(socket: string, topic: string): string {
  const url = new URL(socket)
  const end = "/socket/websocket"
  if (!url.pathname.endsWith(end)) throw new TypeError(`${url.pathname} is not the path of a gateway's socket`)
  const [query, ...parameters] = topic.replace(/^live:/, "").split("?")
  url.protocol = url.protocol.replace("ws", "http")
  url.pathname = `${url.pathname.slice(0, -end.length)}/poke/${encodeURIComponent(query!)}`
  return `${url.origin}${url.pathname}${parameters.length ? `?${parameters.join("?")}` : ""}`
}

/** Sends a poke; returns the number of topics that are polled for it. Throws PokeRefused, or what `fetch` throws. */
export async function sendPoke(url: string, token: string | null): Promise<number> {
  const headers: HeadersInit = token === null ? {} : { authorization: `Bearer ${token}` }
  const response = await fetch(url, { method: "POST", headers })
  const answer = (await response.json().catch(() => ({}))) as Partial<Refusal> & { topics?: number }
  if (response.ok) return answer.topics ?? 0
  throw new PokeRefused(answer.reason ?? "http", answer.detail ?? `the gateway answered ${response.status}`)
}
