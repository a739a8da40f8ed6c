/** The order of a table's rows when it is sorted by a column. Pure: no I/O. */
import type { Json, Result } from "@pollcast/client"

/** A column and a direction. */
export interface Sort {
  name: string
  desc: boolean
}

type Sortable = number | bigint | string | null

const TEXTS = new Intl.Collator("en", { numeric: true })
const ZONED_TIME = /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*[Z+-]/

/**
 * The sorted order of one table. Rows with equal values stay in the query's order, and those without a value come last.
 * It starts from the order of the result before, in which most rows still are at their places: ten thousand rows are
 * then sorted in a few milliseconds.
 */
export class Order {
  private ranks = new Map<string, number>()

  /** Returns the indexes of the result's rows in this order. */
  of(result: Result, sort: Sort): number[] {
    const { rows, keys } = result
    const values = rows.map((row) => sortable(row[sort.name]))
    const indexes = this.start(result)
    const sign = sort.desc ? -1 : 1
    indexes.sort((a, b) => {
      const [left, right] = [values[a]!, values[b]!]
      if (left === right) return a - b
      if (left === null) return 1
      if (right === null) return -1
      return sign * compare(left, right) || a - b
    })
    if (keys.length) this.ranks = new Map(indexes.map((at, rank) => [keys[at]!, rank]))
    return indexes
  }

  /** Returns the indexes of all rows: those that were there before in their last order, then the new ones. */
  private start({ rows, keys }: Result): number[] {
    if (!keys.length || !this.ranks.size) return rows.map((_, at) => at)
    const known = new Array<number>(this.ranks.size).fill(-1)
    const added: number[] = []
    keys.forEach((key, at) => {
      const rank = this.ranks.get(key)
      if (rank === undefined) added.push(at)
      else known[rank] = at
    })
    return known.filter((at) => at >= 0).concat(added)
  }
}

function sortable(value: Json | undefined): Sortable {
  if (value === null || value === undefined) return null
  if (typeof value === "number" || typeof value === "bigint") return value
  if (typeof value === "boolean") return Number(value)
  if (typeof value !== "string") return JSON.stringify(value, (_, each: unknown) => (typeof each === "bigint" ? String(each) : each))
  if (value === "Infinity" || value === "-Infinity") return Number(value)
  return ZONED_TIME.test(value) ? timeOf(value) : value
}

function timeOf(text: string): Sortable {
  const at = Date.parse(text)
  return Number.isNaN(at) ? text : at
}

function compare(a: number | bigint | string, b: number | bigint | string): number {
  if (typeof a === "string" && typeof b === "string") return TEXTS.compare(a, b)
  if (typeof a === "string") return 1
  if (typeof b === "string") return -1
  return a < b ? -1 : a > b ? 1 : 0
}
