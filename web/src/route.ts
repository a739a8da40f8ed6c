/**
 * What the address says: `#/orders?region=north` (the table of a topic), `#/orders?region=north&~=chart` (its chart),
 * `#/cluster/`. The part after the slash is the topic as it is joined, so a link can be shared. Pure.
 */

export type Route =
  | { view: "none" }
  | { view: "cluster" }
  | { view: "topic"; query: string; params: ReadonlyMap<string, string>; shape: Shape }

export type Shape = "table" | "chart"

/** No parameter can have this name. */
const SHAPE = "~"

export function parse(hash: string): Route {
  const text = hash.replace(/^#?\/?/, "")
  if (text === "") return { view: "none" }
  if (text === "cluster/") return { view: "cluster" }
  const [query = "", search = ""] = text.split(/\?(.*)/s)
  const params = new Map(new URLSearchParams(search))
  const shape = params.get(SHAPE) === "chart" ? "chart" : "table"
  params.delete(SHAPE)
  return { view: "topic", query, params, shape }
}

export function format(query: string, params: ReadonlyMap<string, string>, shape: Shape): string {
  const search = new URLSearchParams([...params])
  if (shape === "chart") search.append(SHAPE, "chart")
  const text = search.toString()
  return text ? `#/${query}?${text}` : `#/${query}`
}

/** `live:orders?region=north` */
export function spelling(query: string, params: ReadonlyMap<string, string>): string {
  const text = new URLSearchParams([...params]).toString()
  return text ? `live:${query}?${text}` : `live:${query}`
}
