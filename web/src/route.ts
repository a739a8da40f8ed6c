/**
 * The page's address: `#/orders?region=north` is the table of a topic, `#/orders?region=north&~=chart` its chart,
 * `#/cluster/` the view of the cluster. The part after the slash is the topic, so that a link can be shared.
 *
 * `#/wall/?t=0.0.6.4.orders%3Fregion%3Dnorth&t=…` is a wall of several topics: each `t` has the tile's place (column,
 * row, width, height) and then the address of its topic. Whatever an address holds, it has a route: what cannot be read
 * is left out. Pure: no I/O.
 */
import { COLUMNS, MOST_TILES, settle, type Place } from "./layout"

/** The parameters of a topic by name, each as its texts: one, or those of a list. */
export type Params = ReadonlyMap<string, readonly string[]>

/** The ways to show a result: `trend` has the values of each row over time, `number` large figures. */
export const SHAPES = ["table", "chart", "trend", "number"] as const
export type Shape = (typeof SHAPES)[number]

/** What else the address says about how a result is shown. */
export interface Look {
  /** The column that a chart or a number shows; without it, the first measure. */
  value?: string | undefined
  /** The column by which a table is sorted; without it, the rows are in the query's order. */
  sort?: string | undefined
  /** Whether the table is sorted in descending order. */
  desc?: boolean | undefined
}

/** A topic and the way to show it. */
export interface Shown extends Look {
  query: string
  params: Params
  shape: Shape
}

/** A tile of a wall. */
export interface Tile extends Place, Shown {}

/** The colours that the address of a wall asks for; null for those of the browser. */
export type Theme = "light" | "dark" | null

/** A wall. `full` hides everything around it. */
export interface WallRoute {
  view: "wall"
  tiles: Tile[]
  full: boolean
  theme: Theme
}

/** A parsed address. */
export type Route = { view: "none" } | { view: "cluster" } | WallRoute | ({ view: "topic" } & Shown)

/** The field of the address that holds the shape, and those of the look; no parameter can have such a name. */
const SHAPE = "~"
const VALUE = "~value"
const SORT = "~sort"
const DESC = "~desc"

/** The place of a tile and its topic. */
const TILE = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(.+)$/s

/** Returns the route of an address's hash. */
export function parse(hash: string): Route {
  const text = hash.replace(/^#?\/?/, "")
  if (text === "") return { view: "none" }
  if (text === "cluster/") return { view: "cluster" }
  if (text === "wall/" || text.startsWith("wall/?")) return wallOf(text.slice("wall/?".length))
  return { view: "topic", ...shownOf(text) }
}

/** Returns the topic, and the way to show it, of `orders?region=north&~=chart`. */
function shownOf(text: string): Shown {
  const [query = "", search = ""] = text.split(/\?(.*)/s)
  const pairs = new URLSearchParams(search)
  const shape = SHAPES.find((each) => each === pairs.get(SHAPE)) ?? "table"
  const desc = pairs.get(DESC) || undefined
  const look: Look = { value: pairs.get(VALUE) || undefined, sort: desc ?? (pairs.get(SORT) || undefined) }
  if (desc !== undefined) look.desc = true
  const names = [...new Set(pairs.keys())].filter((name) => !name.startsWith(SHAPE))
  return { query, params: new Map(names.map((name) => [name, pairs.getAll(name)])), shape, ...look }
}

function wallOf(search: string): WallRoute {
  const pairs = new URLSearchParams(search)
  const tiles: Tile[] = []
  for (const text of pairs.getAll("t").slice(0, MOST_TILES)) {
    const [, x, y, w, h, topic] = TILE.exec(text) ?? []
    if (topic) tiles.push({ x: Number(x), y: Number(y), w: Number(w), h: Number(h), ...shownOf(topic) })
  }
  const theme = pairs.get("theme")
  return {
    view: "wall",
    tiles: settle(tiles),
    full: pairs.has("full"),
    theme: theme === "dark" || theme === "light" ? theme : null,
  }
}

/** Returns the hash of a topic's address. */
export function format(query: string, params: Params, shape: Shape, look: Look = {}): string {
  return `#/${shownText({ query, params, shape, ...look })}`
}

function shownText({ query, params, shape, value, sort, desc }: Shown): string {
  const search = new URLSearchParams(pairs(params))
  if (shape !== "table") search.append(SHAPE, shape)
  if (value !== undefined) search.append(VALUE, value)
  if (sort !== undefined) search.append(desc ? DESC : SORT, sort)
  const text = search.toString()
  return text ? `${query}?${text}` : query
}

/** Returns the hash of a wall's address. */
export function formatWall({ tiles, full, theme }: Omit<WallRoute, "view">): string {
  const search = new URLSearchParams()
  if (full) search.append("full", "")
  if (theme) search.append("theme", theme)
  for (const tile of tiles) {
    const { x, y, w, h } = tile
    search.append("t", `${x}.${y}.${Math.min(w, COLUMNS)}.${h}.${shownText(tile)}`)
  }
  const text = search.toString()
  return text ? `#/wall/?${text}` : "#/wall/"
}

/** Returns the topic, as in `live:orders?region=north`. */
export function spelling(query: string, params: Params): string {
  const text = new URLSearchParams(pairs(params)).toString()
  return text ? `live:${query}?${text}` : `live:${query}`
}

/** Returns each text of each parameter with its name. */
function pairs(params: Params): string[][] {
  return [...params].flatMap(([name, texts]) => texts.map((text) => [name, text]))
}
