/** The looks of the charts that uPlot draws: axes, colours, legends and the tooltip. */
import type { Row } from "@pollcast/client"
import uPlot from "uplot"
import { el, rem } from "./dom"
import { colour, dashes, lineColour } from "./palette"
import { json, show, ticks, timeTicks } from "./values"

/** The names and rows of the bars, which change with each result while the chart stays. */
export interface Labels {
  texts: string[]
  rows: readonly Row[]
}

interface Size {
  width: number
  height: number
}

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
/** Number of letters of a bar's name on the axis; the tooltip has all of them. */
const MOST_LETTERS = 16

function axis(): uPlot.Axis {
  return {
    stroke: colour("--text-quiet"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { stroke: colour("--line"), width: 1 },
    font: `${Math.round(0.75 * rem())}px system-ui, sans-serif`,
    labelFont: `${Math.round(0.75 * rem())}px system-ui, sans-serif`,
    size: Math.round(2.5 * rem()),
  }
}

function numberAxis(): uPlot.Axis {
  return { ...axis(), size: 4 * rem(), space: 2 * rem(), values: (_, splits) => ticks(splits) }
}

/** Returns the options of a chart with one bar for each row. */
export function barOptions(size: Size, label: string, value: string, labels: Labels): uPlot.Options {
  const short = (text: string): string => (text.length > MOST_LETTERS ? `${text.slice(0, MOST_LETTERS - 1)}…` : text)
  const widest = (): number => Math.max(3, ...labels.texts.map((text) => Math.min(MOST_LETTERS, text.length)))
  const tip = (at: number): string[] =>
    Object.entries(labels.rows[at] ?? {}).map(([name, each]) => {
      return `${name}: ${typeof each === "object" && each !== null ? json(each) : show(each)}`
    })
  return {
    ...size,
    cursor: { drag: { x: false, y: false }, points: { show: false } },
    legend: { show: true },
    scales: { x: { time: false, range: (_, min, max) => [min - 0.6, max + 0.6] }, y: { range: fromZero } },
    axes: [
      {
        ...axis(),
        values: (_, splits) => splits.map((at) => short(labels.texts[at] ?? "")),
        incrs: [1, 2, 5, 10, 20],
        space: () => (widest() * 0.45 + 0.4) * rem(),
      },
      numberAxis(),
    ],
    series: [
      { label, value: (_, at) => labels.texts[at ?? -1] ?? "–" },
      {
        label: value,
        value: (_, found) => (found === null ? "–" : show(found)),
        stroke: colour("--accent"),
        fill: colour("--accent-soft"),
        width: 2,
        points: { show: false },
        paths: uPlot.paths.bars!({ size: [0.7, 80], radius: 0.15 }),
      },
    ],
    plugins: [tooltip((_, at) => tip(at))],
  }
}

/** Returns the options of a chart with lines over time. The values of rows stay until they change: those lines step. */
export function lineOptions(size: Size, names: readonly string[], points: boolean): uPlot.Options {
  const tip = (plot: uPlot, at: number): string[] => [
    timeOf(plot.data[0][at]!),
    ...names.flatMap((name, index) => {
      const value = plot.data[index + 1]?.[at]
      return value === null || value === undefined ? [] : [`${name}: ${show(value)}`]
    }),
  ]
  return {
    ...size,
    cursor: { drag: { x: false, y: false } },
    legend: { show: true },
    scales: { x: { time: true } },
    axes: [
      { ...axis(), values: (_, splits) => timeTicks(splits), incrs: TIME_STEPS, space: 4.5 * rem() },
      numberAxis(),
    ],
    series: [
      { label: "time", value: (_, at) => (at === null || at === undefined ? "–" : timeOf(at)) },
      ...names.map((name, at) => ({
        label: name,
        value: (_: uPlot, found: number | null) => (found === null ? "–" : show(found)),
        stroke: lineColour(at, names.length),
        width: Math.max(2, rem() / 8),
        dash: dashes(at),
        spanGaps: true,
        points: { show: points },
        ...(points ? {} : { paths: uPlot.paths.stepped!({ align: 1 }) }),
      })),
    ],
    plugins: [tooltip(tip)],
  }
}

const TIME = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" })

function timeOf(seconds: number): string {
  return TIME.format(seconds * 1000)
}

/** Returns a plugin that shows lines of text beside the pointer. */
function tooltip(lines: (plot: uPlot, at: number) => string[]): uPlot.Plugin {
  const box = el("div", { class: "tip", hidden: true })
  return {
    hooks: {
      init: (plot) => plot.over.append(box),
      setCursor: (plot) => {
        const { idx, left = -1, top = 0 } = plot.cursor
        box.hidden = idx === null || idx === undefined || left < 0
        if (box.hidden) return
        box.replaceChildren(...lines(plot, idx!).map((text) => el("div", {}, text)))
        const beyond = left + box.offsetWidth + 24 > plot.over.clientWidth
        const x = beyond ? Math.max(0, left - box.offsetWidth - 12) : left + 12
        const y = Math.max(0, Math.min(top, plot.over.clientHeight - box.offsetHeight))
        box.style.transform = `translate(${x}px, ${y}px)`
      },
    },
  }
}

/** Returns a range that includes zero, so that bars start there. */
function fromZero(_: uPlot, min: number, max: number): [number, number] {
  const low = Math.min(0, min)
  const high = Math.max(0, max)
  const margin = (high - low || 1) * 0.05
  return [low < 0 ? low - margin : 0, high > 0 ? high + margin : 0]
}
