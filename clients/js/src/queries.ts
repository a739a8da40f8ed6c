/** The types of a catalogue's queries, which `pollcast types` generates. Pure: no I/O. */
import type { Row } from "./result.js"
import type { Params } from "./topic.js"

/**
 * The queries of a catalogue by name, each with the types of its parameters and rows. It is empty here: the module that
 * `pollcast types --typescript` writes declares them.
 */
export interface Queries {}

/** The name of a query that is declared. */
export type QueryName = keyof Queries & string

/** The type of a declared query's rows. */
export type RowOf<Q extends QueryName> = Queries[Q] extends { row: infer R extends object } ? R : Row

/** The type of a declared query's parameters. */
export type ParamsOf<Q extends QueryName> = Queries[Q] extends { params: infer P extends object } ? P : never

declare const query: unique symbol

/** The parameters of a query, as arguments: they may be left out if none is required. */
export type ParamsArgument<Q extends string> = Q extends QueryName
  ? Record<never, never> extends ParamsOf<Q>
    ? [params?: ParamsOf<Q>]
    : [params: ParamsOf<Q>]
  : [params?: Params]

/** A topic of a declared query, as `topic` returns it. It is a string; the query is known to the compiler alone. */
export type Topic<Q extends QueryName> = string & { readonly [query]: Q }

/** The topic of a query: one that the compiler knows if the query is declared. */
export type TopicOf<Q extends string> = Q extends QueryName ? Topic<Q> : string
