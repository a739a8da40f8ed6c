/** The chart of a result, drawn by uPlot on a canvas. The table offers the same numbers to screen readers. */
import type { Result } from "@pollcast/client"
import uPlot from "uplot"
import "uplot/dist/uPlot.min.css"
import { el, perFrame, setText } from "./dom"
import { MOST_BARS, plan, type Plan } from "./shape"
import { numberOf, show, ticks, timeTicks } from "./values"

/** Number of points that a chart of one changing row keeps. */
const HISTORY = 600

const MINUTE = 60
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR
/** The possible distances between two marks of a time axis, in seconds. */
const TIME_STEPS = [
  ...[1, 2, 5, 10, 15, 30],
  ...[1, 2, 5, 10, 15, 30].map((minutes) => minutes * MINUTE),
  ...[1, 2, 3, 6, 12].map((hours) => hours * HOUR),
  ...[1, 2, 7, 14, 30, 91, 365].map((days) => days * DAY),
]

/** A chart element with a choice of the column to draw. */
export class Chart {
  readonly element: HTMLElement
  private readonly choice: HTMLSelectElement
  private readonly field: HTMLElement
  private readonly note: HTMLParagraphElement
  private readonly place: HTMLDivElement
  private plot: uPlot | null = null
  private plotted = ""
  private result: Result | null = null
  private labels: string[] = []
  private history: { at: number; values: Record<string, number | null> }[] = []
  private readonly paint = perFrame(() => this.draw())
  private readonly colours = matchMedia("(prefers-color-scheme: dark)")
  private readonly restyle = (): void => {
    this.plotted = ""
    this.paint()
  }

  constructor(label: string) {
    this.choice = el("select", { id: "chart-value" })
    this.choice.addEventListener("change", this.paint)
    this.note = el("p", { class: "quiet", role: "status" })
    this.place = el("div", { class: "plot", role: "img", "aria-label": `Chart of ${label}` })
    this.field = el("div", { class: "field" }, el("label", { for: "chart-value" }, "value"), this.choice)
    this.element = el("div", { class: "chart" }, this.field, this.note, this.place)
    new ResizeObserver(() => this.resize()).observe(this.place)
    this.colours.addEventListener("change", this.restyle)
  }

  /** Draws a result in the next frame. */
  show(result: Result): void {
    this.result = result
    const [row] = result.rows
    if (result.rows.length === 1 && row) {
      const values = Object.fromEntries(
        Object.entries(row).map(([name, value]) => [name, numberOf(value)]),
      )
      this.history.push({ at: Date.parse(result.polledAt) / 1000, values })
      if (this.history.length > HISTORY) this.history.shift()
    }
    this.paint()
  }

  /** Releases the canvas and the listeners. */
  close(): void {
    this.colours.removeEventListener("change", this.restyle)
    this.plot?.destroy()
    this.plot = null
  }

  private draw(): void {
    if (!this.result || !this.element.isConnected) return
    const drawn = plan(this.result.rows, this.result.key)
    if (drawn.kind === "none") {
      setText(this.note, drawn.why)
      this.close()
      this.plotted = ""
      return
    }
    const value = this.chosen(drawn.values)
    const data = this.data(drawn, value)
    setText(
      this.note,
      drawn.kind === "history"
        ? "Values since you opened this chart."
        : this.result.rows.length > MOST_BARS && drawn.kind === "bars"
          ? `The first ${MOST_BARS} rows.`
          : "",
    )
    const wanted = `${drawn.kind} ${value}`
    if (this.plotted === wanted && this.plot) {
      this.plot.setData(data)
      return
    }
    this.plot?.destroy()
    this.plot = new uPlot(this.options(drawn, value), data, this.place)
    this.plotted = wanted
  }

  private chosen(values: readonly string[]): string {
    if ([...this.choice.options].map((option) => option.value).join("\n") !== values.join("\n")) {
      const before = this.choice.value
      this.choice.replaceChildren(...values.map((name) => el("option", { value: name }, name)))
      if (values.includes(before)) this.choice.value = before
      this.field.hidden = values.length < 2
    }
    return this.choice.value
  }

  private data(drawn: Exclude<Plan, { kind: "none" }>, value: string): uPlot.AlignedData {
    const rows = this.result!.rows
    if (drawn.kind === "history")
      return [this.history.map(({ at }) => at), this.history.map(({ values }) => values[value] ?? null)]
    if (drawn.kind === "bars") {
      const first = rows.slice(0, MOST_BARS)
      this.labels = first.map((row) => show(row[drawn.label]))
      return [first.map((_, at) => at), first.map((row) => numberOf(row[value]))]
    }
    const points = rows.map((row) => [Date.parse(String(row[drawn.time])) / 1000, numberOf(row[value])] as const)
    points.sort(([a], [b]) => a - b)
    return [points.map(([at]) => at), points.map(([, found]) => found)]
  }

  private options(drawn: Exclude<Plan, { kind: "none" }>, value: string): uPlot.Options {
    const style = getComputedStyle(document.documentElement)
    const colour = (name: string): string => style.getPropertyValue(name).trim()
    const axis: uPlot.Axis = {
      stroke: colour("--text-quiet"),
      grid: { stroke: colour("--line"), width: 1 },
      ticks: { stroke: colour("--line"), width: 1 },
      font: "12px system-ui, sans-serif",
    }
    const bars = drawn.kind === "bars"
    return {
      ...this.size(),
      cursor: { drag: { x: false, y: false }, points: { show: !bars } },
      legend: { show: true },
      scales: {
        x: { time: !bars, ...(bars ? { range: (_, min, max): [number, number] => [min - 0.6, max + 0.6] } : {}) },
        y: bars ? { range: fromZero } : {},
      },
      axes: [
        {
          ...axis,
          ...(bars
            ? { values: (_, splits) => splits.map((at) => this.labels[at] ?? ""), incrs: [1, 2, 5, 10, 20] }
            : { values: (_, splits) => timeTicks(splits), incrs: TIME_STEPS, space: 72 }),
        },
        { ...axis, size: 64, values: (_, splits) => ticks(splits) },
      ],
      series: [
        drawn.kind === "bars"
          ? { label: drawn.label, value: (_, at) => this.labels[at ?? -1] ?? "–" }
          : { label: "time" },
        {
          label: value,
          value: (_, found) => (found === null ? "–" : show(found)),
          stroke: colour("--accent"),
          fill: bars ? colour("--accent-soft") : "",
          width: 2,
          points: { show: drawn.kind === "lines" },
          ...(bars ? { paths: uPlot.paths.bars!({ size: [0.7, 80], radius: 0.15 }) } : {}),
        },
      ],
    }
  }

  private size(): { width: number; height: number } {
    return { width: Math.max(240, this.place.clientWidth), height: Math.max(240, Math.min(460, innerHeight * 0.5)) }
  }

  private resize(): void {
    this.plot?.setSize(this.size())
  }
}

/** Returns a range that includes zero, so that bars start there. */
function fromZero(_: uPlot, min: number, max: number): [number, number] {
  const low = Math.min(0, min)
  const high = Math.max(0, max)
  const margin = (high - low || 1) * 0.05
  return [low < 0 ? low - margin : 0, high > 0 ? high + margin : 0]
}
