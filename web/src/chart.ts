/** The chart of a result, drawn by uPlot on a canvas. The table offers the same numbers to screen readers. */
import type { Result, Row } from "@pollcast/client"
import uPlot from "uplot"
import "uplot/dist/uPlot.min.css"
import { barOptions, lineOptions, type Labels } from "./chart_options"
import { el, perFrame, rem, setText, uid } from "./dom"
import { onColours } from "./palette"
import type { Look } from "./route"
import { MOST_LINES, Past } from "./series"
import { fullName, MOST_BARS, name, plan, type Plan } from "./shape"
import { numberOf } from "./values"
import type { View, ViewOptions } from "./view"

type Drawn = Exclude<Plan, { kind: "none" }>

/** Height of the chart on a page of its own, in CSS pixels. */
const LEAST_PX = 240
const MOST_PX = 460
/** Height of the smallest chart in a tile. */
const TILE_PX = 60

/** A chart element with a choice of the column to draw. */
export class Chart implements View {
  readonly element: HTMLElement
  private readonly choice = el("select", { id: uid("chart-value") })
  private readonly field: HTMLElement
  private readonly note = el("p", { class: "quiet note", role: "status" })
  private readonly place: HTMLDivElement
  private readonly labels: Labels = { texts: [], rows: [] }
  private plot: uPlot | null = null
  private plotted = ""
  private result: Result | null = null
  private past = new Past()
  /** What the points of the past are: those of another time column, or of rows, do not mix. */
  private pastOf = ""
  private taken: Result | null = null
  private readonly paint = perFrame(() => this.draw())
  private readonly resized = new ResizeObserver(() => this.resize())
  private readonly unlisten: () => void

  /** With `trend`, the chart shows the values of each row over time. */
  constructor(
    private readonly options: ViewOptions,
    private readonly trend: boolean,
  ) {
    this.choice.addEventListener("change", () => {
      options.onLook({ ...this.options.look, value: this.choice.value })
      this.paint()
    })
    this.place = el("div", { class: "plot", role: "img", "aria-label": `Chart of ${options.label}` })
    this.field = el("div", { class: "field" }, el("label", { for: this.choice.id }, "value"), this.choice)
    this.element = el("div", { class: "chart" }, this.field, this.note, this.place)
    this.resized.observe(this.place)
    this.unlisten = onColours(() => {
      this.plotted = ""
      this.paint()
    })
  }

  show(result: Result): void {
    this.result = result
    this.take(result)
    this.paint()
  }

  restyle(look: Look): void {
    this.options.look = look
    if (look.value !== undefined) this.choice.value = look.value
    this.paint()
  }

  close(): void {
    this.resized.disconnect()
    this.unlisten()
    this.release()
  }

  private release(): void {
    this.plot?.destroy()
    this.plot = null
    this.plotted = ""
  }

  /** Adds the result to the past, also when no frame will be drawn for it, as in a hidden tab. */
  private take(result: Result): void {
    if (result === this.taken) return
    this.taken = result
    const drawn = plan(result.rows, result.key, this.trend)
    if (drawn.kind === "none" || drawn.kind === "bars") return
    const of = drawn.kind === "lines" ? `${drawn.time} ${drawn.by?.join(" ") ?? ""}` : ""
    if (of !== this.pastOf) this.past = new Past()
    this.pastOf = of
    if (drawn.kind === "lines") this.past.takePoints(result.rows, drawn.time, drawn.by ?? [])
    else this.past.takeRows(result.rows, names(result), Date.parse(result.polledAt) / 1000)
  }

  private draw(): void {
    const { result } = this
    if (!result || !this.element.isConnected) return
    const drawn = plan(result.rows, result.key, this.trend)
    if (drawn.kind === "none") {
      setText(this.note, drawn.why)
      this.field.hidden = true
      this.release()
      return
    }
    const value = this.chosen(drawn.values)
    const { data, series, note } = drawn.kind === "bars" ? this.bars(drawn, result, value) : this.lines(drawn, value)
    setText(this.note, note)
    const wanted = [drawn.kind, value, rem(), ...series].join("\n")
    if (this.plotted === wanted && this.plot) {
      this.plot.setData(data)
      this.plot.redraw(false, true) // the labels of the axis belong to other rows now, at the same places
      return
    }
    this.release()
    const size = { width: Math.max(120, this.place.clientWidth), height: TILE_PX }
    const options =
      drawn.kind === "bars"
        ? barOptions(size, label(drawn, result), value, this.labels)
        : lineOptions(size, series.length === 1 && !series[0] ? [value] : series, drawn.kind === "lines")
    this.plot = new uPlot(options, data, this.place)
    this.plotted = wanted
    this.resize()
  }

  private chosen(values: readonly string[]): string {
    if ([...this.choice.options].map((option) => option.value).join("\n") !== values.join("\n")) {
      this.choice.replaceChildren(...values.map((each) => el("option", { value: each }, each)))
      const wanted = this.options.look.value
      if (wanted !== undefined && values.includes(wanted)) this.choice.value = wanted
    }
    this.field.hidden = values.length < 2
    return this.choice.value
  }

  private bars(drawn: Drawn, result: Result, value: string): { data: uPlot.AlignedData; series: string[]; note: string } {
    const first = result.rows.slice(0, MOST_BARS)
    this.labels.rows = first
    this.labels.texts = first.map((row) => name(row, by(drawn, result)))
    const note = result.rows.length > MOST_BARS ? `The first ${MOST_BARS} rows.` : ""
    return { data: [first.map((_, at) => at), first.map((row) => numberOf(row[value]))], series: [value], note }
  }

  private lines(drawn: Drawn, value: string): { data: uPlot.AlignedData; series: string[]; note: string } {
    const { times, lines, left } = this.past.lines(value)
    const notes = [
      drawn.kind === "history" && "Values since you opened this chart.",
      left > 0 && `The first ${MOST_LINES} of ${left + MOST_LINES} lines.`,
    ]
    const series = lines.map((line) => line.name)
    return { data: [times, ...lines.map(({ values }) => values)], series, note: notes.filter(Boolean).join(" ") }
  }

  private resize(): void {
    if (!this.plot) return
    const legend = this.place.querySelector<HTMLElement>(".u-legend")?.offsetHeight ?? 0
    const height = this.options.fill
      ? Math.max(TILE_PX, this.place.clientHeight - legend)
      : Math.max(LEAST_PX, Math.min(MOST_PX, innerHeight * 0.5))
    const width = Math.max(120, this.place.clientWidth)
    if (width !== this.plot.width || height !== this.plot.height) this.plot.setSize({ width, height })
  }
}

/** Returns the columns whose values name a bar. */
function by(drawn: Drawn, { key }: Result): readonly string[] {
  return key.length ? key : drawn.kind === "bars" ? [drawn.label] : []
}

function label(drawn: Drawn, result: Result): string {
  return by(drawn, result).join(" · ")
}

/** Returns the names of the rows, for lines over time: none for a single row. */
function names({ rows, key }: Result): string[] {
  return rows.map((row: Row, at) => (rows.length === 1 ? "" : key.length ? fullName(row, key) : String(at + 1)))
}
