/**
 * The stage of one topic: it watches the topic and shows its result in one of the shapes, or the reason why there is
 * none. A page of one topic has one stage, a wall one for each tile. Call `close()` when it is replaced.
 */
import { watch, type Change, type LiveQuery } from "@pollcast/client"
import type { Socket } from "phoenix"
import type { Query } from "./api"
import { Chart } from "./chart"
import { el } from "./dom"
import { Freshness } from "./freshness"
import { Numbers } from "./numbers"
import { spelling, type Look, type Params, type Shape } from "./route"
import * as self from "./self"
import { Table } from "./table"
import { clock } from "./values"
import type { View, ViewOptions } from "./view"

/** What a stage reports. */
export interface StageOptions {
  /** Called with each change of the topic. */
  onChange: (change: Change) => void
  /** Called when the user chooses another way to show the result. */
  onLook: (look: Look) => void
  /** Whether the result fills the height of the stage. */
  fill: boolean
  /** Whether this browser becomes a member of the topic, if the query has presence. */
  member: boolean
}

/** The stage of one query. */
export class Stage {
  readonly element = el("div", { class: "result" })
  readonly freshness = new Freshness()
  private readonly trouble = el("div", { class: "trouble", role: "status", hidden: true })
  private live: LiveQuery | null = null
  private view: View

  constructor(
    private readonly socket: Socket,
    private readonly query: Query,
    private shape: Shape,
    private look: Look,
    private readonly options: StageOptions,
  ) {
    this.view = this.viewOf()
  }

  /** The topic's last change; null before the first. */
  get result(): LiveQuery["result"] {
    return this.live?.result ?? null
  }

  /** Watches the topic with these parameters. */
  start(params: Params): void {
    this.live?.stop()
    this.replaceView()
    this.freshness.show({ state: "live", reason: null, since: null }, null)
    const { query } = this
    const own = self.token() === null ? { key: self.id() } : {}
    const presence =
      query.presence && this.options.member ? { presence: { ...own, meta: { name: self.name() } } } : {}
    this.live = watch(
      this.socket,
      spelling(query.name, params),
      { ...presence, onRefused: () => undefined }, // the status has the reason
      (change) => this.take(change),
    )
  }

  /** Shows a text in place of a result, until the next `start`. */
  explain(text: string): void {
    this.live?.stop()
    this.live = null
    this.element.replaceChildren(el("p", { class: "quiet" }, text))
  }

  /** Shows the result in another way. */
  restyle(shape: Shape, look: Look): void {
    this.look = look
    if (shape === this.shape) {
      this.view.restyle(look)
      return
    }
    this.shape = shape
    if (!this.live) return
    this.replaceView()
    if (this.live.result) this.view.show(this.live.result)
  }

  /** Shows another name to the other members of the topic. */
  rename(name: string): void {
    if (this.query.presence && this.options.member) this.live?.setMeta({ name })
  }

  /** Stops the watch and releases the view. */
  close(): void {
    this.live?.stop()
    this.view.close()
  }

  private take(change: Change): void {
    const { kind, result, status } = change
    this.freshness.show(status, result)
    const bad = result === null && (status.state === "failed" || status.state === "stale")
    this.trouble.hidden = !bad
    this.view.element.hidden = bad
    if (bad) {
      const since = status.since ? `since ${clock(status.since)}` : ""
      this.trouble.dataset["state"] = status.state
      this.trouble.replaceChildren(
        el("strong", {}, status.state === "failed" ? "This topic failed" : "No data at the moment"),
        el("p", {}, status.reason ?? "The gateway gives no reason."),
        since && el("p", { class: "quiet" }, since),
      )
    }
    if (result && kind !== "status" && kind !== "presence") this.view.show(result)
    this.options.onChange(change)
  }

  private replaceView(): void {
    this.view.close()
    this.view = this.viewOf()
    this.trouble.hidden = true
    this.element.replaceChildren(this.trouble, this.view.element)
  }

  private viewOf(): View {
    const { look, shape, query } = this
    const { onLook, fill } = this.options
    const options: ViewOptions = { label: query.title ?? query.name, look, onLook, fill }
    if (shape === "number") return new Numbers(options)
    return shape === "table" ? new Table(options) : new Chart(options, shape === "trend")
  }
}
