/**
 * A topic's result, and the application of deltas to it (docs/reference/channels.md#delta). Pure: no I/O.
 *
 * Payloads that do not fit the protocol, or the result at hand, throw ProtocolViolated and change nothing.
 */

/** A decoded JSON value. */
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json }
/** One row: JSON values by column name. */
export type Row = { readonly [column: string]: Json }
/** The values of a row's key columns. */
export type RowKey = readonly Json[]

/** The payload of the event `snapshot`. `polled_at` is in RFC 3339. */
export interface SnapshotPayload {
  version: string
  polled_at: string
  key: string[]
  rows: Row[]
}

/**
 * The payload of the event `delta`, which applies to the version `base`. `deletes` are the keys of the rows to remove;
 * each upsert inserts its row at the index `at` of the new result, in ascending order.
 */
export interface DeltaPayload {
  version: string
  base: string
  polled_at: string
  deletes: RowKey[]
  upserts: { at: number; row: Row }[]
}

/** The error for a message that the protocol excludes. A correct gateway never causes it. */
export class ProtocolViolated extends Error {
  override name = "ProtocolViolated"
}

/** One version of a topic's rows. It is never modified: a delta makes a new result. */
export class Result {
  private constructor(
    /** The opaque version, which a join sends as `since`. */
    readonly version: string,
    /** The start of the poll that first returned these rows, in RFC 3339. */
    readonly polledAt: string,
    /** The names of the key columns; empty for a query without a key. */
    readonly key: readonly string[],
    /** The rows in the query's order. */
    readonly rows: readonly Row[],
    /** The rows' keys as text, in the same order; empty for a query without a key. */
    readonly keys: readonly string[],
  ) {}

  /** Returns the result of a snapshot. Throws ProtocolViolated when two rows have the same key. */
  static ofSnapshot(payload: SnapshotPayload): Result {
    const { version, polled_at, key, rows } = payload
    const keys = key.length ? rows.map((row) => rowKey(row, key)) : []
    if (new Set(keys).size !== keys.length) {
      throw new ProtocolViolated("a snapshot holds a row key twice (integers beyond 2^53 collide: select them as text)")
    }
    return new Result(version, polled_at, key, rows, keys)
  }

  /** Returns the result after a delta. Throws ProtocolViolated when the delta does not fit this result. */
  after(payload: DeltaPayload): Result {
    const { version, base, polled_at, deletes, upserts } = payload
    if (base !== this.version) throw new ProtocolViolated(`a delta on ${base}, but ${this.version} is known`)
    if (!deletes.length && !upserts.length) throw new ProtocolViolated("an empty delta")
    if (!this.key.length) throw new ProtocolViolated("a delta for a query without a key")
    const deleted = deletes.map((values) => JSON.stringify(values))
    const upserted = upserts.map(({ row }) => rowKey(row, this.key))
    const gone = new Set([...deleted, ...upserted])
    if (gone.size !== deleted.length + upserted.length) throw new ProtocolViolated("a delta names a row key twice")

    let left = deleted.length
    const toDelete = new Set(deleted)
    const kept: number[] = []
    this.keys.forEach((key, at) => {
      if (!gone.has(key)) kept.push(at)
      else if (toDelete.has(key)) left -= 1
    })
    if (left !== 0) throw new ProtocolViolated("a delta deletes a row that is not there")

    // The indexes ascend and count in the new result, so inserting the rows one by one equals merging two lists.
    const rows: Row[] = []
    const keys: string[] = []
    let taken = 0
    const take = (until: number): void => {
      for (; rows.length < until; taken += 1) {
        const at = kept[taken]
        if (at === undefined) throw new ProtocolViolated("a delta inserts beyond the end")
        rows.push(this.rows[at]!)
        keys.push(this.keys[at]!)
      }
    }
    upserts.forEach(({ at, row }, index) => {
      if (at < rows.length) throw new ProtocolViolated("a delta's indexes do not ascend")
      take(at)
      rows.push(row)
      keys.push(upserted[index]!)
    })
    take(rows.length + kept.length - taken)
    return new Result(version, polled_at, this.key, rows, keys)
  }
}

/** Returns a row's key as JSON text. */
function rowKey(row: Row, key: readonly string[]): string {
  return JSON.stringify(
    key.map((column) => {
      const value = row[column]
      if (value === undefined) throw new ProtocolViolated(`a row lacks the key column ${column}`)
      return value
    }),
  )
}
