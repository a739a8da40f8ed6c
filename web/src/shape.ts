/** The choice of a chart for a result: bars of its rows, or lines over time. Pure: no I/O. */
import type { Json, Row } from "@pollcast/client"
import { isId } from "./columns"
import { columns, isNumeric, isTime, json, numberOf } from "./values"

/** The chosen chart; `values` are the columns that can be drawn. */
export type Plan =
  /** One bar per row: its length is a number of the row, its name is the column `label`. */
  | { kind: "bars"; label: string; values: string[] }
  /** Lines over the time column `time`: one for each combination of values in the columns `by`. */
  | { kind: "lines"; time: string; values: string[]; by?: string[] }
  /** Lines of each row's values since the chart was opened. */
  | { kind: "history"; values: string[] }
  /** No chart, for a reason. */
  | { kind: "none"; why: string }

/** Number of rows that a bar chart shows. */
export const MOST_BARS = 60
/** Number of rows in a row by whose times a query without a time in its key is found to be a time series. */
const FEWEST_IN_TIME = 4

/** Returns the columns that measure something: numbers that are no identifiers. */
export function measures(rows: readonly Row[], key: readonly string[]): string[] {
  return columns(rows).filter((name) => isNumeric(rows, name) && !isId(rows, name, key))
}

/** Returns the chart for these rows; `trend` asks for the values of each row over time. */
export function plan(rows: readonly Row[], key: readonly string[], trend = false): Plan {
  if (!rows.length) return { kind: "none", why: "There are no rows to chart." }
  const values = measures(rows, key)
  if (!values.length) return { kind: "none", why: "No column holds numbers to chart." }
  if (rows.length === 1 || trend) return { kind: "history", values }
  const names = columns(rows)
  const time = names.find((name) => isTime(rows, name))
  if (time !== undefined && isSeries(rows, key, time)) {
    const by = others(rows, key, time, values)
    return by.length ? { kind: "lines", time, values, by } : { kind: "lines", time, values }
  }
  const label = key[0] ?? names.find((name) => !values.includes(name)) ?? names[0]!
  const drawn = values.filter((name) => name !== label)
  return drawn.length ? { kind: "bars", label, values: drawn } : { kind: "bars", label, values }
}

/** Returns whether the rows are points in time, and not things that were changed at some time. */
function isSeries(rows: readonly Row[], key: readonly string[], time: string): boolean {
  if (!key.length || key.includes(time)) return true
  const times = rows.map((row) => Date.parse(String(row[time])))
  const ordered = (sign: number): boolean => times.every((at, index) => index === 0 || sign * (at - times[index - 1]!) >= 0)
  return rows.length >= FEWEST_IN_TIME && (ordered(1) || ordered(-1))
}

/** Returns the columns beside the time that tell the lines apart. */
function others(rows: readonly Row[], key: readonly string[], time: string, values: readonly string[]): string[] {
  const keyed = key.includes(time)
  if (!keyed && new Set(rows.map((row) => row[time])).size === rows.length) return []
  const candidates = keyed
    ? key.filter((name) => name !== time)
    : columns(rows).filter((name) => name !== time && !values.includes(name) && !isTime(rows, name))
  // A line needs two points: columns that are different in each row name points, not lines.
  const groups = new Set(rows.map((row) => name(row, candidates)))
  return keyed || groups.size * 2 <= rows.length ? candidates : []
}

/** Returns the name of a row: its values in these columns. */
export function name(row: Row, by: readonly string[]): string {
  return by.map((column) => textOf(row[column])).join(" · ")
}

/** Returns the name of a row where the columns are not named beside it: `teller 7 · north`. */
export function fullName(row: Row, by: readonly string[]): string {
  return by.map((column) => (numberOf(row[column]) === null ? "" : `${column} `) + textOf(row[column])).join(" · ")
}

function textOf(value: Json | undefined): string {
  return value === null || value === undefined ? "–" : typeof value === "object" ? json(value) : String(value)
}
