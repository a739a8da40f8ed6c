/** The cells of a table: their texts, what they hold beyond, and the flash of those that changed. */
import type { Json, Row } from "@pollcast/client"
import { cellText, fullText, pretty, type Column } from "./columns"
import { el, setText } from "./dom"
import { json } from "./values"

/** Duration of a changed cell's flash. */
export const FLASH_MS = 900

/** Returns the classes of a column's cells. */
export function classOf({ kind }: Column): string {
  return kind === "number" ? "cell number" : kind === "text" ? "cell" : `cell ${kind}`
}

/** Shows a value in a cell. One that does not fit is a button, which shows the whole row. */
export function fill(cell: HTMLElement, column: Column, value: Json | undefined): void {
  const text = cellText(column, value)
  const full = fullText(column, value, text)
  const more = (typeof value === "object" && value !== null) || (column.kind === "text" && text.length > column.letters)
  let place: HTMLElement = cell
  if (more) {
    place = cell.querySelector<HTMLElement>("button") ?? el("button", { type: "button", class: "more" })
    if (place.parentElement !== cell) cell.replaceChildren(place)
  }
  setText(place, text)
  if (cell.title !== full) cell.title = full
  cell.classList.toggle("null", value === null || value === undefined)
  if (typeof value === "boolean") cell.dataset["bool"] = String(value)
  else delete cell.dataset["bool"]
}

function isNumber(value: unknown): value is number | bigint {
  return typeof value === "number" || typeof value === "bigint"
}

const flashing = new WeakMap<HTMLElement, Animation>()

/**
 * Lights a cell up: in other colours for a number that rose, one that fell, and any other change. The light fades, or
 * just goes out for those who want no motion.
 */
export function flash(cell: HTMLElement, after: unknown, before: unknown, still: boolean): void {
  const kind = isNumber(after) && isNumber(before) ? (after > before ? "up" : "down") : "other"
  flashing.get(cell)?.cancel()
  const light = { backgroundColor: `var(--flash-${kind})` }
  const frames = still ? [light, light] : [light, { backgroundColor: "transparent" }]
  flashing.set(cell, cell.animate(frames, { duration: FLASH_MS, easing: "ease-out" }))
}

/** Shows all values of a row in full, until the dialog is closed. */
export function showRow(row: Row, columns: readonly Column[]): void {
  const close = el("button", { type: "button", class: "primary" }, "Close")
  const fields = columns.flatMap((column) => {
    const value = row[column.name] ?? null
    const long = typeof value === "object" && value !== null
    const local = column.kind === "time" ? ` (${cellText(column, value)} here)` : ""
    const text = value === null ? "NULL" : typeof value === "string" ? value + local : long ? pretty(value) : json(value)
    return [el("dt", {}, column.name), el("dd", {}, long ? el("pre", { tabindex: 0 }, text) : text)]
  })
  const dialog = el("dialog", { class: "details", "aria-label": "The row" }, el("dl", {}, ...fields), close)
  const opener = document.activeElement
  close.addEventListener("click", () => dialog.close())
  dialog.addEventListener("close", () => {
    dialog.remove()
    if (opener instanceof HTMLElement) opener.focus()
  })
  document.body.append(dialog)
  dialog.showModal()
}
