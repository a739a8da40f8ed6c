/** The view of one topic: its parameters, its result in one of the shapes, its status and age, and its members. */
import type { Change } from "@pollcast/client"
import type { Socket } from "phoenix"
import * as access from "./access"
import type { Query } from "./api"
import { Controls } from "./controls"
import { copies } from "./copies"
import { el, setText } from "./dom"
import { People } from "./people"
import { format, SHAPES, spelling, type Look, type Params, type Shape, type Shown } from "./route"
import { Snippets } from "./snippets"
import { Stage } from "./stage"
import { ago } from "./values"

/** The names of the shapes. */
export const SHAPE_NAMES: Record<Shape, string> = { table: "Table", chart: "Chart", trend: "Trend", number: "Number" }

/** The view of one query, whose topic follows the parameters in the form. Call `close()` when it is replaced. */
export class Explore {
  readonly element: HTMLElement
  private readonly people = new People()
  private readonly counted = el("span", { class: "quiet" })
  private readonly shapes: HTMLElement
  private readonly controls: Controls
  private readonly stage: Stage
  private readonly snippets: Snippets
  private readonly ticking: number
  private started = false
  private params: Params
  private shape: Shape
  private look: Look

  constructor(
    socket: Socket,
    readonly query: Query,
    shown: Shown,
    private readonly onPin: (shown: Shown) => void,
  ) {
    const title = query.title ?? query.name
    this.params = shown.params
    this.shape = shown.shape
    this.look = lookOf(shown)
    this.stage = new Stage(socket, query, this.shape, this.look, {
      onChange: (change) => this.take(change),
      onLook: (look) => this.restyle(look),
      fill: false,
      member: true,
    })
    this.controls = new Controls(query, this.params, (chosen) => this.choose(chosen))
    this.snippets = new Snippets()
    const pin = el("button", { type: "button" }, "Add to wall")
    pin.addEventListener("click", () => this.onPin({ ...this.look, query: query.name, params: this.params, shape: this.shape }))
    const tabs = SHAPES.map((name) => el("a", { "data-shape": name, href: "#" }, SHAPE_NAMES[name]))
    this.shapes = el("nav", { class: "shapes", "aria-label": "Show as" }, ...tabs)
    this.element = el(
      "article",
      {},
      el("header", { class: "title" }, el("h1", {}, title), this.shapes),
      el("div", { class: "facts" }, this.stage.freshness.element, this.counted),
      this.controls.element,
      this.people.element,
      this.stage.element,
      el("div", { class: "tools" }, ...copies(query.name, () => this.stage.result), pin),
      this.snippets.element,
    )
    this.ticking = window.setInterval(() => this.stage.freshness.tick(), 200)
    // The controls may complete the parameters of the address: a required choice starts with its first value.
    const complete = this.controls.values()
    if (complete) {
      this.params = complete
      this.start()
    } else this.stage.explain("Set the parameters above to watch.")
    this.showShape()
  }

  /** Applies a changed address. Returns false when it names another topic than the one that is shown. */
  follow(shown: Shown): boolean {
    if (spelling(this.query.name, shown.params) !== spelling(this.query.name, this.params)) return false
    this.shape = shown.shape
    this.look = lookOf(shown)
    this.stage.restyle(this.shape, this.look)
    this.showShape()
    return true
  }

  /** Shows another name to the other members of the topic. */
  rename(name: string): void {
    this.stage.rename(name)
  }

  /** Stops the watch and releases the chart. */
  close(): void {
    window.clearInterval(this.ticking)
    this.stage.close()
  }

  private restyle(look: Look): void {
    this.look = look
    this.stage.restyle(this.shape, look)
    this.showAddress()
  }

  private choose(params: Params): void {
    const same = this.started && spelling(this.query.name, params) === spelling(this.query.name, this.params)
    this.params = params
    this.showAddress()
    if (!same) this.start()
  }

  private showAddress(): void {
    const address = format(this.query.name, this.params, this.shape, this.look)
    if (address !== location.hash) history.replaceState(null, "", address)
    this.showShape()
  }

  private start(): void {
    this.started = true
    this.stage.start(this.params)
  }

  private take({ kind, result, rows, presence }: Change): void {
    if (kind === "presence") this.people.show(presence, access.key())
    if (!result || kind === "status" || kind === "presence") return
    const every = `polled every ${ago(this.query.interval_ms)}`
    setText(this.counted, `${rows.length} ${rows.length === 1 ? "row" : "rows"} · ${every} · version ${result.version}`)
    this.element.dataset["version"] = result.version
    this.element.dataset["kind"] = kind
  }

  private showShape(): void {
    for (const link of this.shapes.querySelectorAll("a")) {
      const shape = link.dataset["shape"] as Shape
      link.href = format(this.query.name, this.params, shape, this.look)
      if (shape === this.shape) link.setAttribute("aria-current", "true")
      else link.removeAttribute("aria-current")
    }
    this.snippets.show(spelling(this.query.name, this.params))
  }
}

function lookOf({ value, sort, desc }: Look): Look {
  return { value, sort, desc }
}
