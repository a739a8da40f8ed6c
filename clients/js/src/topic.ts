/** The spelling of a topic. Pure. */

export type ParamValue = string | number | bigint | boolean | Date

/** `topic("orders", {region: "a b", limit: 5})` → `"live:orders?region=a+b&limit=5"`. `undefined` leaves one out. */
export function topic(query: string, params: Readonly<Record<string, ParamValue | undefined>> = {}): string {
  const search = new URLSearchParams()
  for (const [name, value] of Object.entries(params)) {
    if (value !== undefined) search.append(name, value instanceof Date ? value.toISOString() : String(value))
  }
  const text = search.toString()
  return text ? `live:${query}?${text}` : `live:${query}`
}
