/** The status of the topic and the age of its result. Screen readers announce a change of the status, not the age. */
import type { Result, Status } from "@pollcast/client"
import { el, setText } from "./dom"
import { ago, clock } from "./values"

const WORDS = { waiting: "waiting", connecting: "waiting", live: "live", stale: "stale", failed: "failed", closed: "closed" } as const

/** The element that shows the status and the age. */
export class Freshness {
  readonly element: HTMLElement
  private readonly badge = el("strong", { class: "state", role: "status" })
  private readonly why = el("span", { class: "why", role: "status" })
  private readonly age = el("span", { class: "age quiet" })
  private status: Status = { state: "live", reason: null, since: null }
  private result: Result | null = null
  private skew = 0 // lower bound of how far the poller's clock is ahead of this one, in ms

  constructor() {
    this.element = el("p", { class: "freshness" }, this.badge, this.why, this.age)
    this.tick()
  }

  /** Shows a status, and the result that it is about. */
  show(status: Status, result: Result | null): void {
    this.status = status
    if (result && result !== this.result) this.skew = Math.max(this.skew, Date.parse(result.polledAt) - Date.now())
    this.result = result
    this.tick()
  }

  /** Updates the age. Call it a few times a second. */
  tick(): void {
    const state = !this.result && ["connecting", "live"].includes(this.status.state) ? "waiting" : this.status.state
    this.element.dataset["state"] = state
    setText(this.badge, WORDS[state])
    const { reason, since } = this.status
    setText(this.why, reason === null ? "" : since === null ? reason : `${reason}, since ${clock(since)}`)
    if (!this.result) {
      setText(this.age, state === "waiting" ? "for the first result" : "no result yet")
      return
    }
    const old = ago(Date.now() + this.skew - Date.parse(this.result.polledAt))
    setText(this.age, state === "live" ? `changed ${old} ago` : `these data are from ${old} ago, or older`)
  }
}
