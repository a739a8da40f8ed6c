/** The texts of values, numbers and times. Pure: no I/O. */
import type { Json, Row } from "@pollcast/client"

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 20 })
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 })
const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 3 })
const CLOCK = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" })
/** Maximum number of decimals of an axis label. */
const MOST_DIGITS = 10
const DAY = new Intl.DateTimeFormat("en", { month: "short", day: "numeric" })
const TIME = /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d/

/** Returns the text of a value in a table. */
export function show(value: Json | undefined): string {
  if (value === null || value === undefined) return "–"
  if (typeof value === "number" || typeof value === "bigint") return NUMBER.format(value)
  if (typeof value === "string") return TIME.test(value) ? showTime(value) : value
  return typeof value === "boolean" ? String(value) : json(value)
}

/** Returns the JSON text of a value, with all digits of its integers. */
export function json(value: Json): string {
  if (typeof value === "bigint") return String(value)
  if (value === null || typeof value !== "object") return JSON.stringify(value)
  if (Array.isArray(value)) return `[${value.map(json).join(",")}]`
  return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}:${json(each)}`).join(",")}}`
}

/** Returns the value of a number, as precisely as a chart needs it; null for any other value. */
export function numberOf(value: unknown): number | null {
  return typeof value === "number" ? value : typeof value === "bigint" ? Number(value) : null
}

function showTime(text: string): string {
  return text
    .replace("T", " ")
    .replace(/(\.\d{3})\d+/, "$1")
    .replace(/\+00:00$/, "Z")
}

/** Returns a rounded number: `1.23`, `12.3`, `1,234`, `12.3K`. */
export function short(value: number): string {
  if (Math.abs(value) >= 10_000) return SHORT.format(value)
  const steps = Math.abs(value) < 10 ? 100 : Math.abs(value) < 100 ? 10 : 1
  return NUMBER.format(Math.round(value * steps) / steps)
}

/**
 * Returns the columns of the first 50 rows: those of the first row in its order, then those that only later rows have.
 */
export function columns(rows: readonly Row[]): string[] {
  const found = new Set<string>()
  for (const row of rows.slice(0, 50)) for (const column of Object.keys(row)) found.add(column)
  return [...found]
}

/** The strings that PostgreSQL writes for floating-point numbers that JSON has no numbers for. */
const NOT_FINITE = new Set<unknown>(["NaN", "Infinity", "-Infinity"])

/** Returns whether the column has numbers, and nothing else but nulls, NaN and infinities, in the first 50 rows. */
export function isNumeric(rows: readonly Row[], column: string): boolean {
  let seen = false
  for (const row of rows.slice(0, 50)) {
    const value = row[column]
    if (value === null || value === undefined || NOT_FINITE.has(value)) continue
    if (numberOf(value) === null) return false
    seen = true
  }
  return seen
}

/** Returns whether the column has times, and nothing else but nulls, in the first 50 rows. */
export function isTime(rows: readonly Row[], column: string): boolean {
  let seen = false
  for (const row of rows.slice(0, 50)) {
    const value = row[column]
    if (value === null || value === undefined) continue
    if (typeof value !== "string" || !TIME.test(value)) return false
    seen = true
  }
  return seen
}

/** Returns a duration in milliseconds as a short text: `0.4 s`, `12 s`, `3 min`, `2 h`. */
export function ago(ms: number): string {
  const seconds = Math.max(0, ms) / 1000
  if (seconds < 10) return `${seconds.toFixed(1)} s`
  if (seconds < 120) return `${Math.round(seconds)} s`
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`
}

/** Returns the time of day in this computer's time zone: `13:45:09`. */
export function clock(at: number | string): string {
  return CLOCK.format(new Date(at))
}

/** Returns the labels of a number axis, with as many digits as are needed to distinguish them. */
export function ticks(values: readonly number[]): string[] {
  const step = Math.abs((values[1] ?? 0) - (values[0] ?? 0))
  if (Math.max(...values.map(Math.abs)) >= 10_000) return values.map((value) => COMPACT.format(value))
  if (!step) return values.map(short)
  let digits = 0
  for (let left = step; digits < MOST_DIGITS && Math.abs(left - Math.round(left)) > 1e-6 * left; left *= 10) digits += 1
  const format = new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })
  return values.map((value) => format.format(value))
}

/**
 * Returns the labels of a time axis, as precise as their distance asks. The values are seconds since the Unix epoch.
 */
export function timeTicks(values: readonly number[]): string[] {
  const step = (values[1] ?? 0) - (values[0] ?? 0)
  return values.map((at) => {
    const date = new Date(at * 1000)
    const midnight = date.getHours() === 0 && date.getMinutes() === 0 && date.getSeconds() === 0
    if (step >= 86_400 || (midnight && step >= 60)) return DAY.format(date)
    return step < 60 ? CLOCK.format(date) : CLOCK.format(date).slice(0, 5)
  })
}

/** Returns a number with its noun: `1 client`, `1.2K clients`. */
export function count(number: number, noun: string): string {
  return `${short(number)} ${noun}${number === 1 ? "" : "s"}`
}
