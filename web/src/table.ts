/**
 * The table of a live result. Rows glide to their new place and changed cells light up.
 *
 * Only the visible rows are in the document, each positioned by a transform: a row that moves gets another transform,
 * and the browser animates it on the compositor. A thousand changing rows therefore cost as much as the thirty visible
 * ones. Rows are identified by their key, or by their index in a query without a key.
 */
import type { Result, Row } from "@pollcast/client"
import { el, perFrame, setText } from "./dom"
import { columns, isNumeric, show } from "./values"

/** Height of a row in CSS pixels. */
const ROW_PX = 36
/** Number of rows kept above and below the visible ones, so that rows are seen gliding in and out. */
const BEYOND = 6
/** Duration of a changed cell's flash. */
const FLASH_MS = 900
/** Number of removed rows up to which they fade out; more at once would cost much and show nothing. */
const MOST_FADING = 12

/** A row of the result that is in the document. */
interface Shown {
  element: HTMLDivElement
  cells: HTMLDivElement[]
  row: Row
  at: number
}

/** A table element. */
export class Table {
  readonly element: HTMLElement
  private readonly head: HTMLDivElement
  private readonly body: HTMLDivElement
  private readonly scroller: HTMLDivElement
  private shown = new Map<string, Shown>()
  private names: string[] = []
  private numeric: boolean[] = []
  private result: Result | null = null
  private first = true
  private readonly paint = perFrame(() => this.draw())

  constructor(label: string) {
    this.head = el("div", { role: "row", class: "row head", "aria-rowindex": 1 })
    this.body = el("div", { role: "rowgroup", class: "rows" })
    const table = el(
      "div",
      { role: "table", class: "table", "aria-label": label },
      el("div", { role: "rowgroup" }, this.head),
      this.body,
    )
    this.scroller = el(
      "div",
      { class: "scroller", tabindex: 0, role: "region", "aria-label": `${label}, scrollable` },
      table,
    )
    this.scroller.addEventListener("scroll", this.paint, { passive: true })
    this.element = this.scroller
    new ResizeObserver(this.paint).observe(this.scroller)
  }

  /** Shows a result in the next frame. */
  show(result: Result): void {
    this.result = result
    this.paint()
  }

  private draw(): void {
    const { result } = this
    if (!result) return
    const { rows, key, keys } = result
    this.columnsOf(rows, key)
    this.scroller.firstElementChild?.setAttribute("aria-rowcount", String(rows.length + 1))
    this.body.style.height = `${rows.length * ROW_PX}px`
    this.body.classList.toggle("settled", !this.first)

    const top = Math.floor(this.scroller.scrollTop / ROW_PX)
    const from = Math.max(0, top - BEYOND)
    const until = Math.min(rows.length, top + Math.ceil(this.scroller.clientHeight / ROW_PX) + BEYOND)
    const next = new Map<string, Shown>()
    for (let at = from; at < until; at += 1) {
      const key = keys[at] ?? String(at)
      const row = rows[at]!
      const before = this.shown.get(key)
      this.shown.delete(key)
      next.set(key, before ? this.change(before, row, at) : this.enter(row, at))
    }
    const few = this.shown.size <= MOST_FADING && !matchMedia("(prefers-reduced-motion: reduce)").matches
    for (const [, gone] of this.shown) {
      if (few && gone.at >= top && gone.at * ROW_PX < this.scroller.scrollTop + this.scroller.clientHeight)
        leave(gone.element)
      else gone.element.remove()
    }
    this.shown = next
    this.first = false
  }

  private change(shown: Shown, row: Row, at: number): Shown {
    if (shown.row !== row) {
      this.names.forEach((name, index) => {
        const cell = shown.cells[index]!
        if (shown.row[name] === row[name]) return
        const text = show(row[name])
        if (cell.textContent === text) return
        setText(cell, text)
        flash(cell, row[name], shown.row[name])
      })
      shown.row = row
    }
    if (shown.at !== at) {
      shown.element.classList.toggle("rising", at < shown.at)
      shown.at = at
      place(shown.element, at)
    }
    return shown
  }

  private enter(row: Row, at: number): Shown {
    const cells = this.names.map((name, index) =>
      el("div", { role: "cell", class: this.kindOf(index) }, show(row[name])),
    )
    const element = el("div", { role: "row", class: this.first ? "row" : "row entering" }, ...cells)
    place(element, at)
    this.body.append(element)
    if (!this.first)
      element.addEventListener("animationend", () => element.classList.remove("entering"), { once: true })
    return { element, cells, row, at }
  }

  private kindOf(column: number): string {
    return this.numeric[column] ? "cell number" : "cell"
  }

  /** Sets the columns, and removes all rows from the document when they changed. */
  private columnsOf(rows: readonly Row[], key: readonly string[]): void {
    if (!rows.length && this.names.length) return
    const names = columns(rows)
    const numeric = names.map((name) => !key.includes(name) && isNumeric(rows, name)) // numbers in key columns are names
    if (names.join("\n") === this.names.join("\n") && numeric.join() === this.numeric.join()) return
    this.names = names
    this.numeric = numeric
    this.shown.clear()
    this.body.replaceChildren()
    this.first = true
    this.scroller.style.setProperty("--columns", String(names.length || 1))
    this.head.replaceChildren(
      ...names.map((name, index) => el("div", { role: "columnheader", class: this.kindOf(index) }, name)),
    )
  }
}

/** Moves a row to its index. */
function place(element: HTMLElement, at: number): void {
  element.style.transform = `translateY(${at * ROW_PX}px)`
  element.setAttribute("aria-rowindex", String(at + 2))
}

/** Fades a row out and removes it. */
function leave(element: HTMLElement): void {
  element.setAttribute("aria-hidden", "true")
  element.classList.add("leaving")
  element.addEventListener("animationend", () => element.remove(), { once: true })
  setTimeout(() => element.remove(), FLASH_MS) // a hidden tab runs no animations
}

function isNumber(value: unknown): value is number | bigint {
  return typeof value === "number" || typeof value === "bigint"
}

const flashing = new WeakMap<HTMLElement, Animation>()

/** Lights a cell up: in other colours for a number that rose, one that fell, and any other change. */
function flash(cell: HTMLElement, after: unknown, before: unknown): void {
  const kind = isNumber(after) && isNumber(before) ? (after > before ? "up" : "down") : "other"
  flashing.get(cell)?.cancel()
  const frames = [{ backgroundColor: `var(--flash-${kind})` }, { backgroundColor: "transparent" }]
  flashing.set(cell, cell.animate(frames, { duration: FLASH_MS, easing: "ease-out" }))
}
