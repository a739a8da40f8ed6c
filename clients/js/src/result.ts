/** A result and what deltas make of it. Pure, and strict: what does not fit throws. */

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json }
export type Row = { readonly [column: string]: Json }
export type RowKey = readonly Json[]

/** As pushed by the gateway. */
export interface SnapshotPayload {
  version: string
  polled_at: string
  key: string[]
  rows: Row[]
}

/** As pushed by the gateway. */
export interface DeltaPayload {
  version: string
  base: string
  polled_at: string
  deletes: RowKey[]
  upserts: { at: number; row: Row }[]
}

/** The gateway sent what the protocol excludes. Never expected. */
export class ProtocolViolated extends Error {
  override name = "ProtocolViolated"
}

/** One version of a topic's rows; never modified. */
export class Result {
  private constructor(
    /** Opaque; what is sent as `since`. */
    readonly version: string,
    /** When the poll that first gave this result started; RFC 3339. */
    readonly polledAt: string,
    /** The names of the key columns; empty for a query without a key. */
    readonly key: readonly string[],
    /** In the query's order. */
    readonly rows: readonly Row[],
    /** The rows' keys as text, in the same order; empty for a query without a key. */
    readonly keys: readonly string[],
  ) {}

  static ofSnapshot(payload: SnapshotPayload): Result {
    const { version, polled_at, key, rows } = payload
    const keys = key.length ? rows.map((row) => rowKey(row, key)) : []
    if (new Set(keys).size !== keys.length) {
      throw new ProtocolViolated("a snapshot holds a row key twice (integers beyond 2^53 collide: select them as text)")
    }
    return new Result(version, polled_at, key, rows, keys)
  }

  /** The result after a delta. */
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

    // As the indexes ascend, inserting one after the other is merging: each is the row's place in the end.
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

function rowKey(row: Row, key: readonly string[]): string {
  return JSON.stringify(
    key.map((column) => {
      const value = row[column]
      if (value === undefined) throw new ProtocolViolated(`a row lacks the key column ${column}`)
      return value
    }),
  )
}
