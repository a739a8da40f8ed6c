/** Pauses between attempts. Pure but for the jitter. */

/** Maximum pauses before the first attempts to connect, or to join, again. */
const RECONNECT_MS = [100, 250, 500, 1000, 2000]
/** Maximum pause before each later attempt. */
const LATEST_RECONNECT_MS = 5000
/** Maximum pause before the first resync of a topic; it doubles with each further one. */
const RESYNC_MS = 1000
/** Maximum pause before any resync. */
const LATEST_RESYNC_MS = 30_000

/** Returns a random pause between half of `ms` and `ms`, so that clients do not return all at once. */
function jittered(ms: number): number {
  return ms * (0.5 + Math.random() / 2)
}

/** Returns the pause before an attempt (counted from 1) to connect or to join again, in milliseconds. */
export function reconnectPause(tries: number): number {
  return jittered(RECONNECT_MS[tries - 1] ?? LATEST_RECONNECT_MS)
}

/** Returns the pause before a topic is joined again that got out of step `times` times in a row, in milliseconds. */
export function resyncPause(times: number): number {
  return jittered(Math.min(LATEST_RESYNC_MS, RESYNC_MS * 2 ** (times - 1)))
}
