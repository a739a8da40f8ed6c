/**
 * A result as a live table. Rows glide to their new place and changed cells light up.
 *
 * Only the rows in sight are in the document, each at its place by a transform: a row that moves gets another transform
 * and the browser glides it there on the compositor, so 1,000 changing rows cost as much as the thirty that one sees.
 * Rows are told apart by their key; without a key, by their place.
 */
import type { Result, Row } from "@pollcast/client"
import { el, perFrame, setText } from "./dom"
import { columns, isNumeric, show } from "./values"

const ROW_PX = 36
const BEYOND = 6 // rows kept above and below what is in sight, so that gliding in and out is seen
const FLASH_MS = 900
const MOST_FADING = 12 // when more rows than that come or go at once, fading shows nothing and costs much

interface Shown {
  element: HTMLDivElement
  cells: HTMLDivElement[]
  row: Row
  at: number
}

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
    const table = el("div", { role: "table", class: "table", "aria-label": label }, el("div", { role: "rowgroup" }, this.head), this.body)
    this.scroller = el("div", { class: "scroller", tabindex: 0, role: "region", "aria-label": `${label}, scrollable` }, table)
    this.scroller.addEventListener("scroll", this.paint, { passive: true })
    this.element = this.scroller
    new ResizeObserver(this.paint).observe(this.scroller)
  }

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
      if (few && gone.at >= top && gone.at * ROW_PX < this.scroller.scrollTop + this.scroller.clientHeight) leave(gone.element)
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
    if (!this.first) element.addEventListener("animationend", () => element.classList.remove("entering"), { once: true })
    return { element, cells, row, at }
  }

  private kindOf(column: number): string {
    return this.numeric[column] ? "cell number" : "cell"
  }

  /** Starts over when the columns are others. */
  private columnsOf(rows: readonly Row[], key: readonly string[]): void {
    if (!rows.length && this.names.length) return
    const names = columns(rows)
    const numeric = names.map((name) => !key.includes(name) && isNumeric(rows, name)) // a key is a name
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

function place(element: HTMLElement, at: number): void {
  element.style.transform = `translateY(${at * ROW_PX}px)`
  element.setAttribute("aria-rowindex", String(at + 2))
}

function leave(element: HTMLElement): void {
  element.setAttribute("aria-hidden", "true")
  element.classList.add("leaving")
  element.addEventListener("animationend", () => element.remove(), { once: true })
  setTimeout(() => element.remove(), FLASH_MS) // a hidden tab runs no animations
}

const flashing = new WeakMap<HTMLElement, Animation>()

function flash(cell: HTMLElement, after: unknown, before: unknown): void {
  const kind = typeof after === "number" && typeof before === "number" ? (after > before ? "up" : "down") : "other"
  flashing.get(cell)?.cancel()
  const frames = [{ backgroundColor: `var(--flash-${kind})` }, { backgroundColor: "transparent" }]
  flashing.set(cell, cell.animate(frames, { duration: FLASH_MS, easing: "ease-out" }))
}
