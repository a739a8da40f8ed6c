/** Large figures: the numbers of a result, each with its change since the value before and a small line of the latest. */
import type { Json, Result, Row } from "@pollcast/client"
import { columnsOf, localTime, widen, type Column } from "./columns"
import { el, perFrame, rem, setText } from "./dom"
import { emsOf, fitting, formsOf } from "./fit"
import { onColours } from "./palette"
import type { Look } from "./route"
import { fullName, measures } from "./shape"
import { drawSpark } from "./spark"
import { numberOf } from "./values"
import type { View, ViewOptions } from "./view"

/** Number of figures that are shown. */
const MOST_FIGURES = 24
/** Number of values in the small line. */
const MOST_VALUES = 120
/**
 * Least letter size of a figure, in multiples of the page's: a number that would be smaller is shortened. On a wall in
 * full on a display of 55 inches, it is read from 3 m.
 */
const LEAST_REM = 1.6
/** Share of its place that a text may take: letters are measured in another size than they are shown in. */
const SAFE = 0.98

/** A figure in the document. */
interface Figure {
  element: HTMLElement
  value: HTMLElement
  change: HTMLElement
  spark: HTMLCanvasElement
  /** The texts of the value, and those of its change, the longest first. */
  forms: readonly string[]
  changeForms: readonly string[]
  way: string
  history: number[]
  last: Json | undefined
}

/** The figures of a result: the measures of its only row, or one measure of each row. */
export class Numbers implements View {
  readonly element: HTMLElement
  private readonly note = el("p", { class: "quiet note" })
  private readonly place = el("dl", { class: "figures" })
  private figures = new Map<string, Figure>()
  private columns = new Map<string, Column>()
  private result: Result | null = null
  private readonly paint = perFrame(() => this.draw())
  private readonly unlisten = onColours(() => this.sparks())
  private readonly resized = new ResizeObserver(() => {
    this.fit()
    this.sparks()
  })

  constructor(private readonly options: ViewOptions) {
    this.element = el("div", { class: "numbers-view", role: "group", "aria-label": options.label }, this.note, this.place)
    this.resized.observe(this.element)
  }

  show(result: Result): void {
    this.result = result
    this.paint()
  }

  restyle(look: Look): void {
    this.options.look = look
    this.paint()
  }

  close(): void {
    this.resized.disconnect()
    this.unlisten()
  }

  private draw(): void {
    const { result } = this
    if (!result) return
    const next = new Map<string, Figure>()
    for (const { id, title, column, value } of this.figuresOf(result)) {
      const figure = this.figures.get(id) ?? this.enter(title)
      next.set(id, figure)
      this.update(figure, column, value)
    }
    for (const [id, { element }] of this.figures) if (!next.has(id)) element.remove()
    const elements = [...next.values()].map(({ element }) => element)
    if (elements.some((element, at) => this.place.children[at] !== element)) this.place.append(...elements)
    this.figures = next
    this.place.dataset["count"] = String(Math.min(next.size, 4))
    const rows = result.rows.length
    setText(this.note, next.size ? (rows > MOST_FIGURES ? `The first ${MOST_FIGURES} of ${rows} rows.` : "") : "No numbers.")
    this.fit()
    this.sparks()
  }

  /** Writes the texts so that they fit: all in letters of one size, or shortened, with the whole value as title. */
  private fit(): void {
    const figures = [...this.figures.values()]
    const [first] = figures
    if (!first) return
    const room = (first.value.getBoundingClientRect().width * SAFE) / rem()
    const large = emsOf(first.value)
    const small = emsOf(first.change)
    const texts = figures.map(({ forms }) => fitting(forms, room / LEAST_REM, large))
    const size = Math.max(LEAST_REM, Math.floor((100 * room) / Math.max(...texts.map(large))) / 100)
    this.place.style.setProperty("--fit", `${size}rem`)
    figures.forEach(({ value, change, way, forms, changeForms }, at) => {
      const text = texts[at]!
      write(value, text, forms[0]!, large(text) * size > room)
      if (!way) return
      const by = fitting(changeForms, room - small(way), small)
      write(change, way + by, way + changeForms[0]!)
    })
  }

  private figuresOf({ rows, key }: Result): { id: string; title: string; column: Column; value: Json | undefined }[] {
    if (!rows.length) return []
    for (const column of columnsOf(rows, key)) {
      const known = this.columns.get(column.name)
      if (known?.kind !== column.kind) this.columns.set(column.name, column)
    }
    const names = measures(rows, key)
    const wanted = this.options.look.value
    const chosen = wanted !== undefined && this.columns.has(wanted) && wanted in rows[0]! ? wanted : null
    const of = (row: Row, column: string, id: string, title: string) => {
      return { id, title, column: this.columns.get(column)!, value: row[column] }
    }
    if (rows.length === 1) {
      const shown = chosen === null ? names : [chosen]
      return (shown.length ? shown : Object.keys(rows[0]!)).slice(0, MOST_FIGURES).map((each) => of(rows[0]!, each, each, each))
    }
    const column = chosen ?? names[0]
    if (column === undefined) return []
    return rows.slice(0, MOST_FIGURES).map((row, at) => {
      const id = key.length ? fullName(row, key) : String(at + 1)
      return of(row, column, id, `${id} · ${column}`)
    })
  }

  private enter(title: string): Figure {
    const value = el("strong", {})
    const change = el("span", { class: "change" })
    const spark = el("canvas", { class: "spark", "aria-hidden": "true" })
    const element = el("div", { class: "figure" }, el("dt", {}, title), el("dd", {}, value, change, spark))
    return { element, value, change, spark, forms: [], changeForms: [], way: "", history: [], last: undefined }
  }

  private update(figure: Figure, column: Column, value: Json | undefined): void {
    widen(column, value)
    figure.forms = textsOf(column, value)
    if (value === figure.last) return
    const [after, before] = [numberOf(value), numberOf(figure.last)]
    if (after !== null) {
      figure.history.push(after)
      if (figure.history.length > MOST_VALUES) figure.history.shift()
    }
    if (after !== null && before !== null) {
      const rose = after > before
      figure.change.dataset["way"] = rose ? "up" : "down"
      figure.way = rose ? "▲ " : "▼ "
      figure.changeForms = formsOf(difference(value!, figure.last!), column.decimals)
    }
    figure.last = value
  }

  private sparks(): void {
    for (const { spark, history } of this.figures.values()) {
      const short = history.length < 2
      spark.hidden = short && this.figures.size === 1 // beside others, its empty place keeps the figures in line
      if (short || !spark.clientWidth || !spark.clientHeight) continue
      drawSpark(spark, history, { width: spark.clientWidth, height: spark.clientHeight })
    }
  }
}

/** Writes a text, and the full one as title where it says more, or when the text is `cut`. */
function write(place: HTMLElement, text: string, full: string, cut = false): void {
  setText(place, text)
  const title = text === full && !cut ? "" : full
  if (place.title !== title) place.title = title
}

/** Returns the texts of a value, the longest first. */
function textsOf(column: Column, value: Json | undefined): string[] {
  if (value === null || value === undefined) return ["–"]
  if (typeof value === "number" || typeof value === "bigint") {
    return column.kind === "id" ? [String(value)] : formsOf(value, column.decimals)
  }
  return [typeof value === "string" && column.kind === "time" ? localTime(value) : String(value)]
}

/** Returns the absolute difference of two numbers, exactly for integers. */
function difference(after: Json, before: Json): number | bigint {
  if (typeof after === "bigint" || typeof before === "bigint") {
    if ([after, before].every((each) => typeof each === "bigint" || Number.isInteger(each))) {
      const by = BigInt(after as number) - BigInt(before as number)
      return by < 0n ? -by : by
    }
  }
  return Math.abs(Number(after) - Number(before))
}
