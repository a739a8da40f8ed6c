/** How values are shown and compared. Pure. */
import type { Json, Row } from "@pollcast/client"

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 20 })
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 })
const TIME = /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d/

export function show(value: Json | undefined): string {
  if (value === null || value === undefined) return "–"
  if (typeof value === "number") return NUMBER.format(value)
  if (typeof value === "string") return TIME.test(value) ? showTime(value) : value
  return typeof value === "boolean" ? String(value) : JSON.stringify(value)
}

function showTime(text: string): string {
  return text.replace("T", " ").replace(/(\.\d{3})\d+/, "$1").replace(/\+00:00$/, "Z")
}

export function short(value: number): string {
  if (Math.abs(value) >= 10_000) return SHORT.format(value)
  const steps = Math.abs(value) < 10 ? 100 : Math.abs(value) < 100 ? 10 : 1
  return NUMBER.format(Math.round(value * steps) / steps)
}

/** Columns in the order of the first row, with what the later rows have beside them. */
export function columns(rows: readonly Row[]): string[] {
  const found = new Set<string>()
  for (const row of rows.slice(0, 50)) for (const column of Object.keys(row)) found.add(column)
  return [...found]
}

export function isNumeric(rows: readonly Row[], column: string): boolean {
  let seen = false
  for (const row of rows.slice(0, 50)) {
    const value = row[column]
    if (value === null || value === undefined) continue
    if (typeof value !== "number") return false
    seen = true
  }
  return seen
}

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

/** `0.4 s`, `12 s`, `3 min`, `2 h` */
export function ago(ms: number): string {
  const seconds = Math.max(0, ms) / 1000
  if (seconds < 10) return `${seconds.toFixed(1)} s`
  if (seconds < 120) return `${Math.round(seconds)} s`
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`
}

/** `1 client`, `1.2K clients` */
export function count(number: number, noun: string): string {
  return `${short(number)} ${noun}${number === 1 ? "" : "s"}`
}
