/** The spelling of topics. Pure: no I/O. */

/** The types of a topic's parameters. A `Date` is sent in ISO 8601. */
export type ParamValue = string | number | bigint | boolean | Date

/**
 * Returns the topic of a query with these parameters, without those that are `undefined`:
 * `topic("orders", {region: "a b", limit: 5})` returns `"live:orders?region=a+b&limit=5"`.
 */
export function topic(query: string, params: Readonly<Record<string, ParamValue | undefined>> = {}): string {
  const search = new URLSearchParams()
  for (const [name, value] of Object.entries(params)) {
    if (value !== undefined) search.append(name, value instanceof Date ? value.toISOString() : String(value))
  }
  const text = search.toString()
  return text ? `live:${query}?${text}` : `live:${query}`
}
