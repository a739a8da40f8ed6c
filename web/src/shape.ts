/** What a result looks like as a chart: bars of its rows, or lines over time. Pure. */
import type { Row } from "@pollcast/client"
import { columns, isNumeric, isTime } from "./values"

export type Plan =
  /** Bars: a number of each row, named by another column. */
  | { kind: "bars"; label: string; values: string[] }
  /** Lines over a time column of the rows. */
  | { kind: "lines"; time: string; values: string[] }
  /** One row: its numbers as they change while one looks. */
  | { kind: "history"; values: string[] }
  | { kind: "none"; why: string }

export const MOST_BARS = 60

/** Decided from the rows and the key columns: numbers that are a key are names, not values. */
export function plan(rows: readonly Row[], key: readonly string[]): Plan {
  if (!rows.length) return { kind: "none", why: "There are no rows to draw." }
  const names = columns(rows)
  const ids = new Set([...key, ...names.filter((name) => /(^|_)id$/.test(name))])
  const numbers = names.filter((name) => isNumeric(rows, name))
  const values = numbers.filter((name) => !ids.has(name))
  if (!values.length) return { kind: "none", why: "No column holds numbers to draw." }
  if (rows.length === 1) return { kind: "history", values }
  const time = names.find((name) => isTime(rows, name))
  if (time) return { kind: "lines", time, values }
  const label = key[0] ?? names.find((name) => !values.includes(name)) ?? names[0]!
  return { kind: "bars", label, values: values.filter((name) => name !== label) }
}
