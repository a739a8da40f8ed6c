/** The choice of a chart for a result: bars of its rows, or lines over time. Pure: no I/O. */
import type { Row } from "@pollcast/client"
import { columns, isNumeric, isTime } from "./values"

/** The chosen chart; `values` are the columns that can be drawn. */
export type Plan =
  /** One bar per row: its length is a number of the row, its name is the column `label`. */
  | { kind: "bars"; label: string; values: string[] }
  /** A line over the time column `time`. */
  | { kind: "lines"; time: string; values: string[] }
  /** A line of the single row's values since the chart was opened. */
  | { kind: "history"; values: string[] }
  /** No chart, for a reason. */
  | { kind: "none"; why: string }

/** Number of rows that a bar chart shows. */
export const MOST_BARS = 60

/** Returns the chart for these rows. Numbers in key columns are names, not values. */
export function plan(rows: readonly Row[], key: readonly string[]): Plan {
  if (!rows.length) return { kind: "none", why: "There are no rows to chart." }
  const names = columns(rows)
  const ids = new Set([...key, ...names.filter((name) => /(^|_)id$/.test(name))])
  const numbers = names.filter((name) => isNumeric(rows, name))
  const values = numbers.filter((name) => !ids.has(name))
  if (!values.length) return { kind: "none", why: "No column holds numbers to chart." }
  if (rows.length === 1) return { kind: "history", values }
  const time = names.find((name) => isTime(rows, name))
  if (time) return { kind: "lines", time, values }
  const label = key[0] ?? names.find((name) => !values.includes(name)) ?? names[0]!
  return { kind: "bars", label, values: values.filter((name) => name !== label) }
}
