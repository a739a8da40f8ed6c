/**
 * The columns of a result and the texts of their cells, by type. Pure: no I/O.
 *
 * Measures have thousands separators and, in one column, equally many decimals; identifiers have neither. Times are in
 * the time zone of this computer. What a text leaves out is in the cell's full text.
 */
import type { Json, Row } from "@pollcast/client"
import { columns, isNumeric, isTime, json, numberOf } from "./values"

/** The type of a column, found in its values. */
export type Kind = "id" | "number" | "time" | "bool" | "json" | "text"

/** A column; `decimals` only grows while the column is shown. */
export interface Column {
  name: string
  kind: Kind
  decimals: number
  /** The number of letters that its cells take, at most MOST_LETTERS. */
  letters: number
}

/** Number of rows in which the types are found. */
const SAMPLE = 50
/** Number of decimals that a cell shows at most; its full text has all of them. */
const MOST_DECIMALS = 6
const FEWEST_LETTERS = 5
export const MOST_LETTERS = 34
/** Length of the full text of a JSON value beyond which it is cut. */
const MOST_FULL = 2000

/** Names of columns whose integers are no quantities. */
const ID_NAME = /^([a-z]?id|key|code|zip|year|no|nr)$|_(id|key|code|no|nr|fk|pk|year)$|[a-z]Id$/
const LOCAL_TIME = /^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d)?)(\.\d+)?$/
const ZONED = /[T ]\d\d:\d\d.*(Z|[+-]\d\d(:?\d\d)?)$/

/** Returns whether the numbers of this column identify something, so that sums and charts of them mean nothing. */
export function isId(rows: readonly Row[], name: string, key: readonly string[]): boolean {
  if (key.includes(name)) return true
  // `bid` is a foreign key, and a price beside `ask`.
  if (name === "bid" && rows[0] !== undefined && "ask" in rows[0]) return false
  return ID_NAME.test(name) && rows.slice(0, SAMPLE).every((row) => isWhole(row[name]))
}

function isWhole(value: Json | undefined): boolean {
  const number = numberOf(value)
  return number === null || Number.isInteger(number)
}

/** Returns the columns of these rows. */
export function columnsOf(rows: readonly Row[], key: readonly string[]): Column[] {
  return columns(rows).map((name) => {
    const column: Column = { name, kind: kindOf(rows, name, key), decimals: 0, letters: FEWEST_LETTERS }
    for (const row of rows.slice(0, SAMPLE)) widen(column, row[name])
    const texts = rows.slice(0, SAMPLE).map((row) => cellText(column, row[name]).length)
    const marks = column.kind === "bool" ? 2 : 0
    const longest = Math.max(name.length + 2, FEWEST_LETTERS, Math.max(0, ...texts) + marks)
    column.letters = Math.min(MOST_LETTERS, longest)
    return column
  })
}

function kindOf(rows: readonly Row[], name: string, key: readonly string[]): Kind {
  if (isNumeric(rows, name)) return isId(rows, name, key) ? "id" : "number"
  if (isTime(rows, name)) return "time"
  const values = rows.slice(0, SAMPLE).map((row) => row[name]).filter((value) => value !== null && value !== undefined)
  if (values.length && values.every((value) => typeof value === "boolean")) return "bool"
  if (values.some((value) => typeof value === "object")) return "json"
  return "text"
}

/** Takes the decimals of a value into account; returns whether the column's cells have more decimals now. */
export function widen(column: Column, value: Json | undefined): boolean {
  if (column.kind !== "number" || typeof value !== "number") return false
  const found = Math.min(MOST_DECIMALS, decimals(value))
  if (found <= column.decimals) return false
  column.decimals = found
  return true
}

/** Returns the number of decimals of a number, as JavaScript writes it. */
function decimals(value: number): number {
  if (Number.isInteger(value)) return 0
  const [digits = "", exponent = "0"] = String(value).split("e")
  return Math.max(0, (digits.split(".")[1]?.length ?? 0) - Number(exponent))
}

const formats = new Map<number, Intl.NumberFormat>()

/** Returns a number with separators and this many decimals; with all of its digits when it is tiny. */
export function fixed(value: number | bigint, digits: number): string {
  if (typeof value === "number" && value !== 0 && Math.abs(value) < 10 ** -MOST_DECIMALS) return String(value)
  let format = formats.get(digits)
  if (!format) {
    format = new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })
    formats.set(digits, format)
  }
  return format.format(value)
}

/** Returns the text of a cell. */
export function cellText(column: Column, value: Json | undefined): string {
  if (value === null || value === undefined) return "NULL"
  if (typeof value === "bigint" || typeof value === "number") {
    if (column.kind !== "number") return String(value)
    return fixed(value, typeof value === "bigint" ? 0 : column.decimals)
  }
  if (typeof value === "string") return column.kind === "time" ? localTime(value) : value
  return typeof value === "boolean" ? String(value) : json(value)
}

/** Returns the full text of a value where it says more than the cell; else the empty text. */
export function fullText(column: Column, value: Json | undefined, text = cellText(column, value)): string {
  if (value === null || value === undefined || typeof value === "boolean") return ""
  if (typeof value === "object") return pretty(value).slice(0, MOST_FULL)
  if (typeof value === "string") return value !== text || value.length > column.letters ? value : ""
  return typeof value === "number" && decimals(value) > column.decimals && column.kind === "number" ? String(value) : ""
}

/** Returns the JSON text of a value on many lines, with all digits of its integers. */
export function pretty(value: Json, indent = ""): string {
  if (value === null || typeof value !== "object") return json(value)
  const inner = `${indent}  `
  const parts = Array.isArray(value)
    ? value.map((each) => pretty(each, inner))
    : Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${pretty(each, inner)}`)
  const [open, close] = Array.isArray(value) ? "[]" : "{}"
  return parts.length ? `${open}\n${parts.map((part) => inner + part).join(",\n")}\n${indent}${close}` : `${open}${close}`
}

/** Returns a time in the time zone of this computer, to the millisecond; a time without a zone as it is. */
export function localTime(text: string): string {
  const plain = LOCAL_TIME.exec(text)
  if (plain) return `${plain[1]} ${plain[2]}${fraction(plain[3])}`
  const at = new Date(ZONED.test(text) ? text.replace(" ", "T").replace(/([+-]\d\d)$/, "$1:00") : text)
  if (Number.isNaN(at.getTime())) return text
  const two = (number: number): string => String(number).padStart(2, "0")
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`
  return `${day} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}${fraction(/\.\d+/.exec(text)?.[0])}`
}

function fraction(digits: string | undefined): string {
  return digits === undefined || /^\.0*$/.test(digits) ? "" : digits.slice(0, 4)
}

/** Returns the rows as CSV (RFC 4180) with a header, each value with all of its digits; NULL is empty. */
export function csv(rows: readonly Row[]): string {
  const names = columns(rows)
  const field = (text: string): string => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text)
  const cell = (value: Json | undefined): string => {
    if (value === null || value === undefined) return ""
    return field(typeof value === "string" ? value : json(value))
  }
  return [names.map(field), ...rows.map((row) => names.map((name) => cell(row[name])))]
    .map((fields) => `${fields.join(",")}\r\n`)
    .join("")
}
