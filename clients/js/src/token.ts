/** When a token ends, and when to ask for the next. Pure. */

/**
 * A token; or what gives one, null when none is needed. It is asked for each connection, with null, and some time before
 * a token expires, with that token: then another is wanted.
 */
export type TokenSource = string | ((expiring: string | null) => string | null | Promise<string | null>)

/** The claims of a JWT, unverified: that is the gateway's to do. Null when it is none. */
export function claims(token: string): Readonly<Record<string, unknown>> | null {
  const body = token.split(".")[1]
  if (body === undefined) return null
  try {
    const bytes = Uint8Array.from(atob(body.replace(/-/g, "+").replace(/_/g, "/")), (letter) => letter.charCodeAt(0))
    const found: unknown = JSON.parse(new TextDecoder().decode(bytes))
    return found !== null && typeof found === "object" && !Array.isArray(found) ? (found as Record<string, unknown>) : null
  } catch {
    return null
  }
}

/** Milliseconds since the Unix epoch; null when it does not expire, or does not say. */
export function expiresAt(token: string): number | null {
  const seconds = claims(token)?.["exp"]
  return typeof seconds === "number" ? seconds * 1000 : null
}

const LEAD_MS = 60_000

/** How long to wait, from `now`, until a token that expires at `at` is to be renewed: a minute before, or after half of
 * the time that is left. Null when this clock says that it is over: then it is the clock that is wrong, or the gateway
 * will close the connection. */
export function renewIn(at: number, now: number): number | null {
  const left = at - now
  return left <= 0 ? null : Math.max(left - LEAD_MS, left / 2)
}
