/** The view of one topic: its parameters, its result as a table or a chart, its status and age, and its members. */
import { watch, type Change, type LiveQuery } from "@pollcast/client"
import type { Socket } from "phoenix"
import * as access from "./access"
import type { Query } from "./api"
import { Chart } from "./chart"
import { Controls } from "./controls"
import { el, setText } from "./dom"
import { Freshness } from "./freshness"
import { People } from "./people"
import { format, spelling, type Params, type Shape } from "./route"
import * as self from "./self"
import { Table } from "./table"
import { ago } from "./values"

/** The view of one query, whose topic follows the parameters in the form. Call `close()` when it is replaced. */
export class Explore {
  readonly element: HTMLElement
  private readonly freshness = new Freshness()
  private readonly people = new People()
  private readonly counted = el("span", { class: "quiet" })
  private readonly place = el("div", { class: "result" })
  private readonly shapes: HTMLElement
  private readonly controls: Controls
  private readonly ticking: number
  private live: LiveQuery | null = null
  private view: Table | Chart
  private changes = 0

  constructor(
    private readonly socket: Socket,
    readonly query: Query,
    private params: Params,
    private shape: Shape,
  ) {
    const title = query.title ?? query.name
    this.controls = new Controls(query, params, (chosen) => this.choose(chosen))
    const tab = (name: Shape, text: string): HTMLAnchorElement => el("a", { "data-shape": name, href: "#" }, text)
    this.shapes = el("nav", { class: "shapes", "aria-label": "Show as" }, tab("table", "Table"), tab("chart", "Chart"))
    this.view = this.viewOf(shape)
    this.element = el(
      "article",
      {},
      el("header", { class: "title" }, el("h1", {}, title), this.shapes),
      el("p", { class: "facts" }, this.freshness.element, this.counted),
      this.controls.element,
      this.people.element,
      this.place,
    )
    this.ticking = window.setInterval(() => this.freshness.tick(), 200)
    // The controls may complete the parameters of the address: a required choice starts with its first value.
    const complete = this.controls.values()
    if (complete) {
      this.params = complete
      this.start()
    } else {
      this.place.replaceChildren(el("p", { class: "quiet" }, "Set the parameters above to watch."))
    }
    this.showShape()
  }

  /** Applies a changed address. Returns false when it names another topic than the one that is shown. */
  follow(params: Params, shape: Shape): boolean {
    if (spelling(this.query.name, params) !== spelling(this.query.name, this.params)) return false
    if (shape !== this.shape) {
      this.shape = shape
      if (this.view instanceof Chart) this.view.close()
      this.view = this.viewOf(shape)
      this.place.replaceChildren(this.view.element)
      if (this.live?.result) this.view.show(this.live.result)
    }
    this.showShape()
    return true
  }

  /** Shows another name to the other members of the topic. */
  rename(name: string): void {
    if (this.query.presence) this.live?.setMeta({ name })
  }

  /** Stops the watch and releases the chart. */
  close(): void {
    window.clearInterval(this.ticking)
    this.live?.stop()
    if (this.view instanceof Chart) this.view.close()
  }

  private choose(params: Params): void {
    const address = format(this.query.name, params, this.shape)
    const same = spelling(this.query.name, params) === spelling(this.query.name, this.params) && this.live !== null
    this.params = params
    if (address !== location.hash) history.replaceState(null, "", address)
    this.showShape()
    if (!same) this.start()
  }

  private start(): void {
    this.live?.stop()
    this.changes = 0
    if (this.view instanceof Chart) this.view.close()
    this.view = this.viewOf(this.shape)
    this.place.replaceChildren(this.view.element)
    this.freshness.show({ state: "live", reason: null, since: null }, null)
    const own = self.token() === null ? { key: self.id() } : {}
    const presence = this.query.presence ? { presence: { ...own, meta: { name: self.name() } } } : {}
    const refused = ({ reason, detail }: { reason: string; detail: string }): void => {
      this.freshness.show({ state: "failed", reason: `${reason}: ${detail}`, since: null }, null)
    }
    this.live = watch(
      this.socket,
      spelling(this.query.name, this.params),
      { ...presence, onRefused: refused },
      (change) => this.take(change),
    )
  }

  private take({ kind, result, rows, status, presence }: Change): void {
    this.freshness.show(status, result)
    if (kind === "presence") this.people.show(presence, access.key())
    if (!result || kind === "status" || kind === "presence") return
    this.changes += 1
    const every = `polled every ${ago(this.query.interval_ms)}`
    setText(this.counted, `${rows.length} ${rows.length === 1 ? "row" : "rows"} · ${every} · version ${result.version}`)
    this.element.dataset["version"] = result.version
    this.element.dataset["kind"] = kind
    this.view.show(result)
  }

  private viewOf(shape: Shape): Table | Chart {
    const label = this.query.title ?? this.query.name
    return shape === "chart" ? new Chart(label) : new Table(label)
  }

  private showShape(): void {
    for (const link of this.shapes.querySelectorAll("a")) {
      const shape = link.dataset["shape"] as Shape
      link.href = format(this.query.name, this.params, shape)
      if (shape === this.shape) link.setAttribute("aria-current", "true")
      else link.removeAttribute("aria-current")
    }
  }
}
