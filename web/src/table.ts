/**
 * The table of a live result. Rows glide to their new place and changed cells light up.
 *
 * Only the visible rows are in the document, each positioned by a transform: a row that moves gets another transform,
 * and the browser animates it on the compositor. Ten thousand changing rows therefore cost as much as the thirty visible
 * ones. Scrolling makes no elements: those of the rows that leave show the rows that come. Rows are identified by their key, or by their index in a query without a key.
 */
import type { Result, Row } from "@pollcast/client"
import { calm, classOf, fill, flash, FLASH_MS, showRow } from "./cell"
import { cellText, columnsOf, widen, type Column } from "./columns"
import { el, perFrame, rem } from "./dom"
import { Order, type Sort } from "./order"
import type { Look } from "./route"
import type { View, ViewOptions } from "./view"

/** Height of a row in multiples of the page's letter size. */
const ROW_REM = 2.25
/** Number of rows kept above and below the visible ones, so that rows are seen gliding in and out. */
const BEYOND = 6
/** Number of removed rows up to which they fade out; more at once would cost much and show nothing. */
const MOST_FADING = 12
/** Width of a cell's padding, of a letter and of a digit, in multiples of the page's letter size. */
const PADDING_REM = 1.65
const LETTER_REM = 0.57
const DIGIT_REM = 0.64

/** A row of the result that is in the document. */
interface Shown {
  element: HTMLDivElement
  cells: HTMLDivElement[]
  row: Row
  at: number
}

/** A table element. */
export class Table implements View {
  readonly element: HTMLElement
  private readonly head = el("div", { role: "row", class: "row head", "aria-rowindex": 1, hidden: true })
  private readonly body = el("div", { role: "rowgroup", class: "rows" })
  private readonly scroller: HTMLDivElement
  private readonly table: HTMLDivElement
  private readonly empty = el("p", { class: "quiet none", hidden: true }, "No rows.")
  private readonly order = new Order()
  private shown = new Map<string, Shown>()
  private columns: Column[] = []
  private result: Result | null = null
  /** The result whose columns are known. */
  private examined: Result | null = null
  /** The indexes of the rows in the sorted order; null for the query's order. */
  private sorted: { result: Result; sort: Sort; indexes: number[] } | null = null
  private look: Look
  private rowPx = 0
  /** The height of rows is known for the present size of the table. */
  private sized = false
  private first = true
  /** What was drawn last: the result, and the places of its rows that are in the document. */
  private drawn: { result: Result | null; from: number; until: number } = { result: null, from: 0, until: 0 }
  private readonly paint = perFrame(() => this.draw())
  private readonly still = matchMedia("(prefers-reduced-motion: reduce)")
  private readonly resized = new ResizeObserver(() => {
    this.sized = false
    this.paint()
  })

  constructor({ label, look, onLook }: ViewOptions) {
    this.look = look
    this.table = el(
      "div",
      { role: "table", class: "table", "aria-label": label },
      el("div", { role: "rowgroup" }, this.head),
      this.body,
    )
    this.scroller = el(
      "div",
      { class: "scroller", tabindex: 0, role: "region", "aria-label": `${label}, scrollable` },
      this.table,
      this.empty,
    )
    this.scroller.addEventListener("scroll", this.paint, { passive: true })
    this.head.addEventListener("click", ({ target }) => {
      const name = target instanceof Element && target.closest("button")?.dataset["column"]
      if (typeof name === "string") onLook({ ...this.look, ...next(this.look, name) })
    })
    this.body.addEventListener("click", ({ target }) => {
      if (target instanceof Element && target.closest("button")) this.open(target)
    })
    this.body.addEventListener("dblclick", ({ target }) => {
      if (target instanceof Element) this.open(target)
    })
    this.element = this.scroller
    this.resized.observe(this.scroller)
  }

  show(result: Result): void {
    this.result = result
    this.paint()
  }

  restyle(look: Look): void {
    this.look = look
    this.headings()
    this.paint()
  }

  close(): void {
    this.resized.disconnect()
  }

  private draw(): void {
    const { result } = this
    if (!result) return
    const { rows, keys } = result
    if (result !== this.drawn.result || !this.sized) this.setResult(result)
    this.body.classList.toggle("settled", !this.first)
    const order = this.ordered(result)
    const { scrollTop, clientHeight } = this.scroller
    const top = Math.floor(scrollTop / this.rowPx)
    const from = Math.max(0, top - BEYOND)
    const until = Math.min(rows.length, top + Math.ceil(clientHeight / this.rowPx) + BEYOND)
    const widened = this.widen(rows, order, from, until)
    const next = new Map<string, Shown>()
    const coming: { key: string; row: Row; place: number }[] = []
    for (let place = from; place < until; place += 1) {
      const at = order ? order[place]! : place
      const key = keys[at] ?? String(at)
      const row = rows[at]!
      const before = this.shown.get(key)
      if (!before) coming.push({ key, row, place })
      else {
        this.shown.delete(key)
        next.set(key, this.change(before, row, place, widened))
      }
    }
    const news = result !== this.drawn.result
    const fading = news && this.shown.size <= MOST_FADING && !this.still.matches
    const spare: Shown[] = []
    for (const gone of this.shown.values()) {
      if (fading && gone.at >= top && gone.at * this.rowPx < scrollTop + clientHeight) leave(gone.element)
      else if (news || gone.element.contains(document.activeElement)) gone.element.remove()
      else spare.push(gone)
    }
    for (const { key, row, place } of coming) next.set(key, this.reuse(spare.pop(), row, place) ?? this.enter(row, place, news))
    for (const { element } of spare) element.remove()
    this.shown = next
    this.drawn = { result, from, until }
    this.first = false
  }

  /** Prepares the table for the rows of another result. */
  private setResult(result: Result): void {
    this.sized = true
    this.setColumns(result)
    this.setRowHeight()
    this.table.setAttribute("aria-rowcount", String(result.rows.length + 1))
    this.empty.hidden = result.rows.length > 0
    this.body.style.height = `${result.rows.length * this.rowPx}px`
  }

  /** Returns the indexes of the rows in the order in which they are shown; null for the query's order. */
  private ordered(result: Result): number[] | null {
    const { sort: name, desc = false } = this.look
    if (name === undefined) return null
    const known = this.sorted
    if (known?.result === result && known.sort.name === name && known.sort.desc === desc) return known.indexes
    const sort = { name, desc }
    this.sorted = { result, sort, indexes: this.order.of(result, sort) }
    return this.sorted.indexes
  }

  /** Takes the decimals of the rows into account that will be shown; returns whether cells have to be written again. */
  private widen(rows: readonly Row[], order: readonly number[] | null, from: number, until: number): boolean {
    let widened = false
    for (const column of this.columns) {
      if (column.kind !== "number") continue
      for (let place = from; place < until; place += 1) {
        if (widen(column, rows[order ? order[place]! : place]![column.name])) widened = true
      }
    }
    return widened
  }

  private change(shown: Shown, row: Row, at: number, widened: boolean): Shown {
    if (shown.row !== row || widened) {
      this.columns.forEach((column, index) => {
        const { name } = column
        const cell = shown.cells[index]!
        if (shown.row[name] === row[name] && !widened) return
        const text = cellText(column, row[name])
        if (cell.textContent === text && cell.title === "") return
        const changed = shown.row[name] !== row[name] && cell.textContent !== text
        fill(cell, column, row[name])
        if (changed) flash(cell, row[name], shown.row[name], this.still.matches)
      })
      shown.row = row
    }
    if (shown.at !== at) {
      shown.element.classList.remove("placed")
      shown.element.classList.toggle("rising", at < shown.at)
      shown.at = at
      this.place(shown.element, at)
    }
    return shown
  }

  /** Shows a row in the element of one that is not visible any more. */
  private reuse(spare: Shown | undefined, row: Row, at: number): Shown | null {
    if (!spare) return null
    spare.cells.forEach((cell, index) => {
      const column = this.columns[index]!
      calm(cell)
      fill(cell, column, row[column.name])
    })
    spare.element.className = "row placed"
    this.place(spare.element, at)
    return Object.assign(spare, { row, at })
  }

  /** Shows a row in an element of its own; one that is new among the visible ones fades in. */
  private enter(row: Row, at: number, news: boolean): Shown {
    const cells = this.columns.map((column) => {
      const cell = el("div", { role: "cell", class: classOf(column) })
      fill(cell, column, row[column.name])
      return cell
    })
    const fades = news && !this.first && at >= this.drawn.from && at < this.drawn.until
    const element = el("div", { role: "row", class: fades ? "row entering" : "row" }, ...cells)
    this.place(element, at)
    this.body.append(element)
    if (fades)
      element.addEventListener("animationend", () => element.classList.remove("entering"), { once: true })
    return { element, cells, row, at }
  }

  /** Moves a row to its place. */
  private place(element: HTMLElement, at: number): void {
    element.style.transform = `translateY(${at * this.rowPx}px)`
    element.setAttribute("aria-rowindex", String(at + 2))
  }

  private setRowHeight(): void {
    const px = Math.round(ROW_REM * rem())
    if (px === this.rowPx) return
    this.rowPx = px
    this.scroller.style.setProperty("--row", `${px}px`)
    for (const { element, at } of this.shown.values()) this.place(element, at)
  }

  /** Sets the columns, and removes all rows from the document when they changed. */
  private setColumns(result: Result): void {
    const { rows, key } = result
    if (result === this.examined || (!rows.length && this.columns.length)) return
    this.examined = result
    const columns = columnsOf(rows, key)
    const same = (a: Column, b: Column | undefined): boolean => a.name === b?.name && a.kind === b.kind
    if (columns.length === this.columns.length && columns.every((each, at) => same(each, this.columns[at]))) return
    this.columns = columns
    this.shown.clear()
    this.body.replaceChildren()
    this.first = true
    const widths = columns.map(({ letters, kind }) => {
      return letters * (kind === "text" || kind === "json" ? LETTER_REM : DIGIT_REM) + PADDING_REM
    })
    const style = this.scroller.style
    style.setProperty("--columns", String(columns.length || 1))
    style.setProperty("--template", columns.map(({ letters }, at) => `minmax(${widths[at]!.toFixed(2)}rem, ${letters}fr)`).join(" "))
    style.setProperty("--least", `${widths.reduce((sum, width) => sum + width, 0).toFixed(2)}rem`)
    this.head.replaceChildren(
      ...columns.map((column) =>
        el(
          "div",
          { role: "columnheader", class: classOf(column) },
          el("button", { type: "button", "data-column": column.name, title: `Sort by ${column.name}` }, column.name),
        ),
      ),
    )
    this.head.hidden = columns.length === 0 // a row without cells is none to a screen reader
    this.headings()
  }

  /** Shows by which column the table is sorted. */
  private headings(): void {
    this.columns.forEach(({ name }, at) => {
      const direction = this.look.sort !== name ? "none" : this.look.desc ? "descending" : "ascending"
      this.head.children[at]!.setAttribute("aria-sort", direction)
    })
  }

  private open(target: Element): void {
    const element = target.closest(".row")
    const shown = [...this.shown.values()].find((each) => each.element === element)
    if (shown) showRow(shown.row, this.columns)
  }
}

/** Returns the sort after a click on a column: ascending, then descending, then the query's order. */
function next({ sort, desc }: Look, name: string): Look {
  if (sort !== name) return { sort: name, desc: undefined }
  return desc ? { sort: undefined, desc: undefined } : { sort: name, desc: true }
}

/** Fades a row out and removes it. */
function leave(element: HTMLElement): void {
  element.setAttribute("aria-hidden", "true")
  element.classList.add("leaving")
  element.addEventListener("animationend", () => element.remove(), { once: true })
  setTimeout(() => element.remove(), FLASH_MS) // a hidden tab runs no animations
}
