/** A collection of TanStack DB: `@pollcast/client/tanstack-db`. */
import type { CollectionConfig } from "@tanstack/db"
import type { Socket } from "phoenix"
import type { WatchOptions } from "./change.js"
import { watch } from "./live.js"
import type { QueryName, RowOf, Topic } from "./queries.js"
import type { Row } from "./result.js"

/** The options of `pollcastCollectionOptions`. */
export interface PollcastCollectionOptions<R extends object = Row> {
  /** The socket, from `connect`. */
  socket: Socket
  topic: string
  /** The collection's name; by default the topic. */
  id?: string
  /**
   * Returns a row's key. By default it is the value of the query's key column, or the JSON text of several ones; a query
   * without a key needs this function.
   */
  getKey?: (row: R) => string | number
  /** See `watch`. */
  presence?: WatchOptions["presence"]
}

/**
 * Returns the options of a collection whose rows are a topic's live result:
 * `createCollection(pollcastCollectionOptions({ socket, topic }))`. The topic is watched while the collection is in use.
 * Transactions of TanStack DB do not write to it: write to your database, and the change comes back.
 */
export function pollcastCollectionOptions<Q extends QueryName>(
  options: PollcastCollectionOptions<RowOf<Q>> & { topic: Topic<Q> },
): CollectionConfig<RowOf<Q>, string | number>
export function pollcastCollectionOptions<R extends object = Row>(
  options: PollcastCollectionOptions<R>,
): CollectionConfig<R, string | number>
export function pollcastCollectionOptions<R extends object = Row>({
  socket,
  topic,
  id,
  getKey,
  presence,
}: PollcastCollectionOptions<R>): CollectionConfig<R, string | number> {
  let columns: readonly string[] = []
  const keyOf = getKey ?? ((row: R) => defaultKey(row as Row, columns))
  return {
    id: id ?? topic,
    getKey: keyOf,
    sync: {
      rowUpdateMode: "full",
      sync({ begin, write, commit, markReady, markError }) {
        let before = new Map<string | number, R>()
        const live = watch(socket, topic, presence ? { presence } : {}, ({ kind, result, status }) => {
          if (status.state === "failed" && !result) markError(new Error(status.reason ?? "failed"))
          if (!result || kind === "status" || kind === "presence") return
          columns = result.key
          if (!columns.length && !getKey) {
            live.stop()
            markError(new Error(`${topic} has no key: give getKey`))
            return
          }
          const after = new Map((result.rows as readonly R[]).map((row) => [keyOf(row), row]))
          begin()
          for (const [key, value] of before) if (!after.has(key)) write({ type: "delete", value })
          for (const [key, value] of after) {
            const old = before.get(key)
            if (old === undefined) write({ type: "insert", value })
            else if (old !== value) write({ type: "update", value })
          }
          commit()
          before = after
          markReady()
        })
        return () => live.stop()
      },
    },
  }
}

function defaultKey(row: Row, columns: readonly string[]): string | number {
  const [first, ...others] = columns.map((column) => row[column])
  if (!others.length && (typeof first === "string" || typeof first === "number")) return first
  return JSON.stringify([first, ...others], (_, value: unknown) => (typeof value === "bigint" ? String(value) : value))
}
