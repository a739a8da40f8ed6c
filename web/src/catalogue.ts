/** The gateway's catalogue, which a gateway takes over anew without a restart (docs/reference/catalogue.md#reloading). */
import { ApiError, get, type Query } from "./api"
import * as self from "./self"

/** Time between two looks at the catalogue while the page is visible. */
const LOOK_MS = 30_000
/** Time from a sign of a change to the look: many topics are closed at once. */
const SOON_MS = 200

/** The queries of the catalogue. After `load` they are looked at now and then, and soon after each `suspect()`. */
export class Catalogue {
  queries: readonly Query[] = []
  private text = ""
  private timer: number | undefined
  private known = false
  /** A look is due soon. */
  private soon = false

  /** `onChange` is called when the catalogue is another one than before. */
  constructor(private readonly onChange: () => void) {
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.suspect()
    })
  }

  /** Loads the catalogue for the first time. Throws ApiError. */
  async load(token: string | null): Promise<void> {
    await this.fetch(token)
    this.known = true
    this.lookIn(LOOK_MS)
  }

  /** Looks soon, because the catalogue may have changed. */
  suspect(): void {
    if (!this.known || this.soon) return
    this.soon = true
    this.lookIn(SOON_MS)
  }

  private lookIn(ms: number): void {
    window.clearTimeout(this.timer)
    this.timer = window.setTimeout(() => void this.look(), ms)
  }

  private async look(): Promise<void> {
    this.soon = false
    try {
      if (document.visibilityState === "visible" && (await this.fetch(self.token()))) this.onChange()
    } catch (error) {
      if (!(error instanceof ApiError)) throw error // the page says elsewhere that it has no connection, or no token
    } finally {
      if (!this.soon) this.lookIn(LOOK_MS)
    }
  }

  /** Returns whether the catalogue is another one than before. */
  private async fetch(token: string | null): Promise<boolean> {
    const { queries } = await get<{ queries: Query[] }>("api/queries", token)
    const text = JSON.stringify(queries)
    if (text === this.text) return false
    this.text = text
    this.queries = queries
    return true
  }
}

/** Returns whether a query was changed such that what is shown of it is out of date; it is not when the query is gone. */
export function changed(before: Query | null, now: Query | null): boolean {
  return now !== null && JSON.stringify(before) !== JSON.stringify(now)
}
