/**
 * The page's address: `#/orders?region=north` is the table of a topic, `#/orders?region=north&~=chart` its chart,
 * `#/cluster/` the view of the cluster. The part after the slash is the topic, so that a link can be shared. Pure: no
 * I/O.
 */

/** The parameters of a topic by name, each as its texts: one, or those of a list. */
export type Params = ReadonlyMap<string, readonly string[]>

/** A parsed address. */
export type Route =
  | { view: "none" }
  | { view: "cluster" }
  | { view: "topic"; query: string; params: Params; shape: Shape }

/** The two ways to show a result. */
export type Shape = "table" | "chart"

/** The field of the address that holds the shape; no parameter can have this name. */
const SHAPE = "~"

/** Returns the route of an address's hash. */
export function parse(hash: string): Route {
  const text = hash.replace(/^#?\/?/, "")
  if (text === "") return { view: "none" }
  if (text === "cluster/") return { view: "cluster" }
  const [query = "", search = ""] = text.split(/\?(.*)/s)
  const pairs = new URLSearchParams(search)
  const shape = pairs.get(SHAPE) === "chart" ? "chart" : "table"
  pairs.delete(SHAPE)
  const params = new Map([...pairs.keys()].map((name) => [name, pairs.getAll(name)]))
  return { view: "topic", query, params, shape }
}

/** Returns the hash of a topic's address. */
export function format(query: string, params: Params, shape: Shape): string {
  const search = new URLSearchParams(pairs(params))
  if (shape === "chart") search.append(SHAPE, "chart")
  const text = search.toString()
  return text ? `#/${query}?${text}` : `#/${query}`
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
