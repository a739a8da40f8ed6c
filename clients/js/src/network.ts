/**
 * What a browser knows of its network: lost and found again, the page shown again, the machine woken up.
 *
 * Elsewhere only waking up is noticed, by a timer that comes much too late.
 */

/** `offline`: there is no network. `back`: the network may have changed, so a connection may be dead. */
export type NetworkEvent = "offline" | "back"

/** Time between two looks at the clock. */
const LOOK_MS = 5000
/** Time by which a look is late when the machine has slept. */
const SLEPT_MS = 10_000

/** The part of a browser's `window`, `document` and `navigator.connection` that is used here. */
interface Target {
  addEventListener(name: string, listener: () => void): void
  removeEventListener(name: string, listener: () => void): void
}

/** Calls `report` with each event, until the returned function is called. */
export function observeNetwork(report: (event: NetworkEvent) => void): () => void {
  const window = globalThis as unknown as Partial<Target> & {
    document?: Target & { visibilityState: string }
    navigator?: { connection?: Partial<Target> }
  }
  const back = (): void => report("back")
  const offline = (): void => report("offline")
  const shown = (): void => {
    if (window.document?.visibilityState === "visible") back()
  }
  const listeners: [Partial<Target> | undefined, string, () => void][] = [
    [window, "offline", offline],
    [window, "online", back],
    [window.document, "visibilitychange", shown],
    [window.document, "resume", shown],
    [window.navigator?.connection, "change", back],
  ]
  for (const [target, name, listener] of listeners) target?.addEventListener?.(name, listener)
  let before = Date.now()
  const looking = setInterval(() => {
    const now = Date.now()
    if (now - before > LOOK_MS + SLEPT_MS) back()
    before = now
  }, LOOK_MS)
  if (typeof looking === "object") (looking as { unref?: () => void }).unref?.() // Node.js may end meanwhile
  return () => {
    clearInterval(looking)
    for (const [target, name, listener] of listeners) target?.removeEventListener?.(name, listener)
  }
}
