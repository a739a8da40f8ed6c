/**
 * A wall: several topics side by side, at places that the user arranges with the mouse or the keyboard. All of it is in
 * the address, so that copying the address gives the same wall; the server keeps nothing. In full, everything but the
 * tiles is hidden, and letters grow with the screen.
 */
import type { Socket } from "phoenix"
import type { Query } from "./api"
import { arrangeable } from "./arrange"
import { el } from "./dom"
import { before, change, depth, free, settle, type Place } from "./layout"
import { setTheme } from "./palette"
import { formatWall, spelling, type Shown, type Theme, type Tile, type WallRoute } from "./route"
import { Adder } from "./wall_adder"
import { TileView } from "./wall_tile"

const LAST = "pollcast.wall"

/** The address of the wall that was shown last in this browser. */
export function lastWall(): string {
  return localStorage.getItem(LAST) ?? "#/wall/"
}

/** Returns the tiles with one more, at the first free place. */
export function withTile(tiles: readonly Tile[], shown: Shown): Tile[] {
  const size = shown.shape === "number" ? { w: 3, h: 3 } : { w: 6, h: 5 }
  return [...tiles, { ...free(tiles, size), ...shown }]
}

/** The view of a wall. Call `close()` when it is replaced. */
export class Wall {
  readonly element: HTMLElement
  private readonly grid = el("div", { class: "grid" })
  private readonly empty = el("p", { class: "quiet" }, "This wall is empty. Add a topic above, or on the page of a topic.")
  private readonly adder: Adder
  private readonly leave = el("button", { type: "button", class: "leave" }, "Leave full screen")
  private readonly announce = el("p", { class: "unseen", role: "status" })
  private tiles: TileView[] = []
  private route: WallRoute
  private readonly ticking: number

  constructor(
    private readonly socket: Socket,
    private readonly queries: readonly Query[],
    route: WallRoute,
  ) {
    this.route = { ...route, tiles: [] }
    this.adder = new Adder(queries, (shown) => this.add(shown))
    const full = el("button", { type: "button" }, "Full screen")
    full.addEventListener("click", () => this.enterFull())
    this.leave.addEventListener("click", () => this.leaveFull())
    const theme = el("button", { type: "button" }, "Light or dark")
    theme.addEventListener("click", () => this.put({ ...this.route, theme: this.nextTheme() }, true))
    const bar = el(
      "header",
      { class: "title" },
      el("h1", {}, "Wall"),
      this.adder.element,
      el("div", { class: "tools" }, theme, full),
    )
    this.element = el("article", { class: "wall" }, bar, this.leave, this.announce, this.empty, this.grid)
    this.follow(route)
    this.ticking = window.setInterval(() => this.tiles.forEach((tile) => tile.tick()), 500)
    document.addEventListener("fullscreenchange", this.onFullscreen)
    document.addEventListener("keydown", this.onKey)
  }

  /** Applies a changed address; tiles whose topics stay go on. */
  follow(route: WallRoute): void {
    const rest = [...this.tiles]
    this.tiles = route.tiles.map((tile) => {
      const topic = spelling(tile.query, tile.params)
      const at = rest.findIndex((view) => view.topic === topic)
      const [known] = at < 0 ? [] : rest.splice(at, 1)
      known?.follow(tile)
      return known ?? this.view(tile)
    })
    for (const view of rest) {
      view.close()
      view.element.remove()
    }
    // The controls may have completed parameters, and what could not be read was left out.
    this.route = { ...route, tiles: this.places }
    const address = formatWall(this.route)
    if (address !== location.hash) history.replaceState(null, "", address)
    this.show()
  }

  /** Shows the user's other name: a wall has no members. */
  rename(): void {}

  /** Stops all watches. */
  close(): void {
    window.clearInterval(this.ticking)
    document.removeEventListener("fullscreenchange", this.onFullscreen)
    document.removeEventListener("keydown", this.onKey)
    for (const tile of this.tiles) tile.close()
    setTheme(null)
    delete document.body.dataset["full"]
  }

  private view(tile: Tile): TileView {
    const query = this.queries.find(({ name }) => name === tile.query) ?? null
    const view = new TileView(this.socket, query, tile, {
      onChange: (shown) => this.replace(view, shown),
      onRemove: () => this.remove(view),
    })
    arrangeable(view.element, view.handles, {
      grid: this.grid,
      place: () => view.tile,
      preview: (by) => this.preview(view, by),
      commit: (by) => this.move(view, by),
    })
    return view
  }

  private get places(): Tile[] {
    return this.tiles.map(({ tile }) => tile)
  }

  private add(shown: Shown): void {
    this.put({ ...this.route, tiles: withTile(this.places, shown) })
    this.announce.textContent = `${shown.query} was added.`
  }

  private remove(view: TileView): void {
    const at = this.tiles.indexOf(view)
    this.put({ ...this.route, tiles: settle(this.places.filter((_, index) => index !== at)) })
    this.announce.textContent = `${view.tile.query} was removed.`
    const next = this.tiles[Math.min(at, this.tiles.length - 1)]
    ;(next?.handles.move ?? this.adder.first).focus()
  }

  /** Shows a tile's topic in another way, or with other parameters. */
  private replace(view: TileView, shown: Shown): void {
    const tiles = this.tiles.map((each) => (each === view ? { ...each.tile, ...shown } : each.tile))
    view.tile = { ...view.tile, ...shown }
    this.put({ ...this.route, tiles }, true)
  }

  private preview(view: TileView, by: Partial<Place> | null): void {
    const tiles = by ? change(this.places, this.tiles.indexOf(view), by) : this.places
    this.tiles.forEach((each, at) => each.put(tiles[at]!))
    this.deepen(tiles)
  }

  private move(view: TileView, by: Partial<Place>): void {
    this.put({ ...this.route, tiles: change(this.places, this.tiles.indexOf(view), by) })
    const { x, y, w, h } = view.tile
    this.announce.textContent = `Column ${x + 1}, row ${y + 1}, ${w} wide, ${h} high.`
  }

  /** Shows another wall and its address; `quiet` adds no step to the browser's history. */
  private put(route: WallRoute, quiet = false): void {
    const address = formatWall(route)
    if (address !== location.hash) {
      if (quiet) history.replaceState(null, "", address)
      else history.pushState(null, "", address)
    }
    this.follow(route)
  }

  private show(): void {
    const { full, theme } = this.route
    localStorage.setItem(LAST, formatWall({ ...this.route, full: false }))
    for (const link of document.querySelectorAll<HTMLAnchorElement>('a[data-view="wall"]')) link.hash = lastWall()
    setTheme(theme)
    if (full) document.body.dataset["full"] = ""
    else delete document.body.dataset["full"]
    this.leave.hidden = !full
    this.empty.hidden = this.tiles.length > 0
    this.tiles.forEach((view) => view.put(view.tile))
    this.deepen(this.places)
    this.inReadingOrder()
  }

  private deepen(tiles: readonly Place[]): void {
    this.grid.style.setProperty("--depth", String(depth(tiles)))
  }

  /** Puts the elements in the order in which they are read, which is that of the tabulator key as well. */
  private inReadingOrder(): void {
    const ordered = [...this.tiles].sort((a, b) => before(a.tile, b.tile)).map(({ element }) => element)
    if (ordered.every((element, at) => this.grid.children[at] === element)) return
    const focused = document.activeElement
    ordered.forEach((element, at) => {
      if (this.grid.children[at] !== element) this.grid.insertBefore(element, this.grid.children[at] ?? null)
    })
    if (focused instanceof HTMLElement && focused !== document.activeElement && focused.isConnected) focused.focus()
  }

  private nextTheme(): Theme {
    const dark = this.route.theme ? this.route.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches
    return dark ? "light" : "dark"
  }

  private enterFull(): void {
    this.put({ ...this.route, full: true })
    this.leave.focus()
    // A browser without full screen, as on a phone, still hides all but the tiles.
    void document.documentElement.requestFullscreen?.().catch(() => undefined)
  }

  private leaveFull(): void {
    if (document.fullscreenElement) void document.exitFullscreen()
    this.put({ ...this.route, full: false })
  }

  private readonly onFullscreen = (): void => {
    if (!document.fullscreenElement && this.route.full) this.leaveFull()
  }

  private readonly onKey = (event: KeyboardEvent): void => {
    if (event.key === "Escape" && this.route.full && !document.querySelector("dialog[open]")) this.leaveFull()
  }
}
