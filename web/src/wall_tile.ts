/** One tile of a wall: a topic with its status, its parameters and the means to arrange it. */
import type { Socket } from "phoenix"
import type { Query } from "./api"
import type { Handles } from "./arrange"
import { Controls } from "./controls"
import { el, uid } from "./dom"
import { SHAPE_NAMES } from "./explore"
import type { Place } from "./layout"
import { format, SHAPES, spelling, type Look, type Params, type Shape, type Shown, type Tile } from "./route"
import { Stage } from "./stage"

/** What a tile reports. */
export interface TileEvents {
  /** Called when the user shows the topic in another way, or with other parameters. */
  onChange: (shown: Shown) => void
  onRemove: () => void
}

/** The view of a tile; `query` is null when the catalogue does not have it. */
export class TileView {
  readonly element: HTMLElement
  readonly handles: Handles
  private readonly stage: Stage | null
  private readonly controls: Controls | null
  private readonly link: HTMLAnchorElement
  private readonly shapes = el("select", { id: uid("shape"), class: "shape" })
  private started = false

  constructor(
    socket: Socket,
    query: Query | null,
    public tile: Tile,
    private readonly events: TileEvents,
  ) {
    const title = query?.title ?? tile.query
    const move = el("button", { type: "button", class: "move", "aria-label": `Move ${title}` }, "✥")
    move.title = "Drag, or use the arrow keys; with Shift they resize"
    const size = el("button", { type: "button", class: "size", "aria-label": `Resize ${title}` })
    size.title = "Drag, or use the arrow keys"
    this.handles = { move, size }
    const close = el("button", { type: "button", class: "remove", "aria-label": `Remove ${title}` }, "×")
    close.addEventListener("click", () => events.onRemove())
    this.link = el("a", {}, title)
    const heading = el("h2", {}, this.link)
    const chrome = el("div", { class: "chrome" })
    const place = el("div", { class: "place" })
    this.shapes.append(...SHAPES.map((name) => el("option", { value: name }, SHAPE_NAMES[name])))
    this.shapes.setAttribute("aria-label", `Show ${title} as`)
    this.shapes.addEventListener("change", () => this.change({ shape: this.shapes.value as Shape }))
    if (query) {
      this.stage = new Stage(socket, query, tile.shape, lookOf(tile), {
        onChange: () => undefined,
        onLook: (look) => this.change(look),
        fill: true,
        member: false,
      })
      this.controls = new Controls(query, tile.params, (params) => this.choose(params))
      chrome.append(this.shapes)
      if (query.params.length) chrome.append(this.filter(title))
      place.append(this.stage.element)
    } else {
      this.stage = this.controls = null
      place.append(el("p", { class: "why" }, `There is no query “${tile.query}” in the catalogue.`))
    }
    chrome.append(move, close)
    const head = el("header", {}, heading, this.stage?.freshness.element, chrome)
    this.element = el("section", { class: "tile", "aria-label": title }, head, this.controls?.element, place, size)
    this.start()
    this.describe()
  }

  /** The topic, as in `live:orders?region=north`. */
  get topic(): string {
    return spelling(this.tile.query, this.tile.params)
  }

  /** Takes a changed place, shape or look; the topic is the same. */
  follow(tile: Tile): void {
    this.tile = tile
    this.stage?.restyle(tile.shape, lookOf(tile))
    this.describe()
  }

  /** Shows the tile at a place, which is not its own while another tile is dragged. */
  put({ x, y, w, h }: Place): void {
    const { style } = this.element
    for (const [name, value] of [["x", x + 1], ["y", y + 1], ["w", w], ["h", h]] as const)
      style.setProperty(`--${name}`, String(value))
  }

  /** Updates the age of the result. */
  tick(): void {
    this.stage?.freshness.tick()
  }

  /** Stops the watch. */
  close(): void {
    this.stage?.close()
  }

  private filter(title: string): HTMLElement {
    const button = el("button", { type: "button", "aria-expanded": "false", "aria-label": `Parameters of ${title}` }, "▾")
    button.addEventListener("click", () => {
      const open = this.controls!.element.classList.toggle("open")
      button.setAttribute("aria-expanded", String(open))
    })
    return button
  }

  /** Watches the topic, when all of its parameters are set. */
  private start(): void {
    const params = this.controls?.values()
    if (params) {
      this.tile = { ...this.tile, params }
      this.started = true
      this.stage!.start(params)
    } else {
      this.controls?.element.classList.add("open")
      this.stage?.explain("Set the parameters above to watch.")
    }
  }

  private choose(params: Params): void {
    if (this.started && spelling(this.tile.query, params) === this.topic) return
    this.started = true
    this.stage!.start(params)
    this.change({ params })
  }

  private change(by: Partial<Shown>): void {
    const { query, params, shape } = this.tile
    this.events.onChange({ query, params, shape, ...lookOf(this.tile), ...by })
  }

  private describe(): void {
    const { query, params, shape } = this.tile
    this.link.href = format(query, params, shape, lookOf(this.tile))
    const values = [...params].map(([name, texts]) => `${name} ${texts.join(", ")}`).join(" · ")
    this.link.title = values || query
    this.element.dataset["shape"] = shape
    this.shapes.value = shape
    let shown = this.element.querySelector<HTMLElement>(".values")
    if (!shown) {
      shown = el("span", { class: "values quiet" })
      this.link.after(shown)
    }
    shown.textContent = values
  }
}

function lookOf({ value, sort, desc }: Look): Look {
  return { value, sort, desc }
}
