/** Tokens: where they come from, when they expire and when to renew them. Pure: no I/O. */

/**
 * A token, or a function that returns one, at once or as a promise; null means that no token is needed.
 *
 * The function is called with null for each connection, and with the current token some time before that token expires:
 * it should then return another one.
 */
export type TokenSource = string | ((expiring: string | null) => string | null | Promise<string | null>)

/**
 * Returns the claims of a JWT, or null when the text is not one. The signature is not verified: the gateway does that.
 */
export function claims(token: string): Readonly<Record<string, unknown>> | null {
  const body = token.split(".")[1]
  if (body === undefined) return null
  try {
    const bytes = Uint8Array.from(atob(body.replace(/-/g, "+").replace(/_/g, "/")), (letter) => letter.charCodeAt(0))
    const found: unknown = JSON.parse(new TextDecoder().decode(bytes))
    const isObject = found !== null && typeof found === "object" && !Array.isArray(found)
    return isObject ? (found as Record<string, unknown>) : null
  } catch {
    return null
  }
}

/** Returns the time at which a JWT expires, in milliseconds since the Unix epoch, or null when it has no such claim. */
export function expiresAt(token: string): number | null {
  const seconds = claims(token)?.["exp"]
  return typeof seconds === "number" ? seconds * 1000 : null
}

/** Time before its expiry at which a token is renewed. */
const LEAD_MS = 60_000

/**
 * Returns how long after `now` to renew a token that expires at `at`, all in milliseconds: until a minute before its
 * expiry, or for half of the remaining time if that is later.
 *
 * Returns null when the token has expired by this clock: either the clock is wrong, or the gateway closes the
 * connection.
 */
export function renewIn(at: number, now: number): number | null {
  const left = at - now
  return left <= 0 ? null : Math.max(left - LEAD_MS, left / 2)
}
