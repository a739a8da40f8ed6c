/**
 * A topic's result, and the application of deltas to it (docs/reference/channels.md#delta). Pure: no I/O.
 *
 * Payloads that do not fit the protocol, or the result at hand, throw ProtocolViolated and change nothing.
 */

import { canonical, isExact, same, type Json } from "./json.js"

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

/**
 * The error for a row key with a number that was rounded before the payload came here, so that it may belong to another
 * row: a payload from JSON.parse, with an integer beyond 2^53 as a key.
 */
export class KeyRounded extends Error {
  override name = "KeyRounded"
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
    /**
     * The rows' keys as JSON text, in the same order; empty for a query without a key. Keys are equal when their texts
     * are: numbers are spelled in one way, with all their digits, and the names of objects are sorted.
     */
    readonly keys: readonly string[],
  ) {}

  /**
   * Returns the result of a snapshot. Rows that are equal to those of an earlier result are its objects. Throws
   * ProtocolViolated when two rows have the same key, and KeyRounded when a key has lost digits.
   */
  static ofSnapshot(payload: SnapshotPayload, before: Result | null = null): Result {
    const { version, polled_at, key, rows } = payload
    const keyOf = isExact(payload) ? rowKey : unroundedRowKey
    const keys = key.length ? rows.map((row) => keyOf(row, key)) : []
    if (new Set(keys).size !== keys.length) throw new ProtocolViolated("a snapshot holds a row key twice")
    return new Result(version, polled_at, key, before ? before.reused(rows, keys) : rows, keys)
  }

  /** Returns these rows with this result's own objects in place of those that are equal to them. */
  private reused(rows: readonly Row[], keys: readonly string[]): readonly Row[] {
    const places = new Map(this.keys.map((key, at) => [key, at]))
    return rows.map((row, at) => {
      const before = this.rows[keys.length ? (places.get(keys[at]!) ?? -1) : at]
      return before && same(before, row) ? before : row
    })
  }

  /**
   * Returns the result after a delta. Rows that did not change are the same objects. Throws ProtocolViolated when the delta does not fit this result, and KeyRounded when
   * a key has lost digits.
   */
  after(payload: DeltaPayload): Result {
    const { version, base, polled_at, deletes, upserts } = payload
    if (base !== this.version) throw new ProtocolViolated(`a delta on ${base}, but ${this.version} is known`)
    if (!deletes.length && !upserts.length) throw new ProtocolViolated("an empty delta")
    if (!this.key.length) throw new ProtocolViolated("a delta for a query without a key")
    const [keyOf, textOf] = isExact(payload) ? [rowKey, keyText] : [unroundedRowKey, unroundedKeyText]
    const deleted = deletes.map((values) => textOf(values))
    const upserted = upserts.map(({ row }) => keyOf(row, this.key))
    const gone = new Set([...deleted, ...upserted])
    if (gone.size !== deleted.length + upserted.length) throw new ProtocolViolated("a delta names a row key twice")

    let left = deleted.length
    const toDelete = new Set(deleted)
    const kept: number[] = []
    const moved = new Map<string, Row>()
    this.keys.forEach((key, at) => {
      if (!gone.has(key)) kept.push(at)
      else if (toDelete.has(key)) left -= 1
      else moved.set(key, this.rows[at]!)
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
      const key = upserted[index]!
      const before = moved.get(key)
      rows.push(before && same(before, row) ? before : row)
      keys.push(key)
    })
    take(rows.length + kept.length - taken)
    return new Result(version, polled_at, this.key, rows, keys)
  }
}

/** Returns a row's key as JSON text. */
function rowKey(row: Row, key: readonly string[]): string {
  return `[${key.map((column) => columnText(row, column)).join(",")}]`
}

function columnText(row: Row, column: string): string {
  if (row[column] === undefined) throw new ProtocolViolated(`a row lacks the key column ${column}`)
  return canonical(row, column)
}

/** Returns a row key as JSON text. */
function keyText(values: RowKey): string {
  return canonical([values], 0)
}

function unroundedRowKey(row: Row, key: readonly string[]): string {
  for (const column of key) refuseRounded(row[column]!)
  return rowKey(row, key)
}

function unroundedKeyText(values: RowKey): string {
  values.forEach(refuseRounded)
  return keyText(values)
}

/** Throws KeyRounded for an integer beyond 2^53 in a row key. */
function refuseRounded(value: Json): void {
  if (Array.isArray(value)) value.forEach(refuseRounded)
  else if (typeof value === "object" && value !== null) Object.values(value).forEach(refuseRounded)
  else if (typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value)) {
    throw new KeyRounded(
      "a row key has an integer beyond 2^53, which JSON.parse rounds: read the payload with `parse`, or select it as text",
    )
  }
}
