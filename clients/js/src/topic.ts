/** The spelling of topics. Pure: no I/O. */
import type { ParamsArgument, QueryName, TopicOf } from "./queries.js"

/** The types of a parameter's value. A `Date` is sent in ISO 8601. */
export type ParamValue = string | number | bigint | boolean | Date

/** The parameters of a topic by name: an array has the values of a list parameter. */
export type Params = Readonly<Record<string, ParamValue | readonly ParamValue[] | null | undefined>>

/**
 * Returns the topic of a query with these parameters, without those that are `undefined` or `null`:
 * `topic("orders", {region: "a b", limit: 5})` returns `"live:orders?region=a+b&limit=5"`, and
 * `topic("orders", {regions: ["north", "south"]})` returns `"live:orders?regions=north&regions=south"`. The parameters of
 * a query that is declared (`Queries`) are checked by the compiler.
 */
export function topic<Q extends QueryName | (string & {})>(query: Q, ...params: ParamsArgument<Q>): TopicOf<Q>
export function topic(query: string, ...[params]: unknown[]): string {
  const search = new URLSearchParams()
  for (const [name, given] of Object.entries((params ?? {}) as Params)) {
    for (const value of [given ?? []].flat()) search.append(name, value instanceof Date ? value.toISOString() : String(value))
  }
  const text = search.toString()
  return text ? `live:${query}?${text}` : `live:${query}`
}
