/**
 * The lines of a chart over time, and the points that a result had before. Pure: no I/O.
 *
 * A query returns the last minutes, and its chart grows beyond them: a point that has left the result at its beginning
 * stays, up to a bounded number. A point that is corrected or deleted within the result's span changes in the chart too.
 */
import type { Row } from "@pollcast/client"
import { fullName } from "./shape"
import { numberOf } from "./values"

/** Number of points that a line keeps. */
export const MOST_POINTS = 600
/** Number of lines that a chart draws, and of those whose points it keeps. */
export const MOST_LINES = 8
const MOST_KEPT = 64

/** One row at one time, in seconds since the Unix epoch. */
interface Point {
  at: number
  row: Row
}

/** The lines of a chart: of each, its name and its value at each of the times; null where it has none. */
export interface Lines {
  times: number[]
  lines: { name: string; values: (number | null)[] }[]
  /** The number of lines that are left out. */
  left: number
}

/** The points of each line, by the line's name. */
export class Past {
  private points = new Map<string, Point[]>()

  /** Takes a result whose rows are points in time. */
  takePoints(rows: readonly Row[], time: string, by: readonly string[]): void {
    const found = new Map<string, Point[]>()
    for (const row of rows) {
      const at = Date.parse(String(row[time])) / 1000
      if (Number.isNaN(at)) continue
      const line = fullName(row, by)
      const points = found.get(line)
      if (points) points.push({ at, row })
      else found.set(line, [{ at, row }])
    }
    let start = Infinity
    for (const points of found.values()) {
      points.sort((a, b) => a.at - b.at)
      start = Math.min(start, points[0]!.at)
    }
    for (const [line, points] of this.points) {
      const left = points.filter(({ at }) => at < start)
      if (left.length) found.set(line, [...left, ...(found.get(line) ?? [])])
    }
    this.keep(found)
  }

  /** Takes a result whose rows have the names, at the time at which it was polled. */
  takeRows(rows: readonly Row[], names: readonly string[], at: number): void {
    const found = new Map<string, Point[]>()
    rows.slice(0, MOST_KEPT).forEach((row, index) => {
      const points = this.points.get(names[index]!) ?? []
      const last = points.at(-1)
      if (last === undefined || last.at < at) points.push({ at, row })
      else last.row = row
      found.set(names[index]!, points)
    })
    for (const [line, points] of this.points) if (!found.has(line)) found.set(line, points)
    this.keep(found)
  }

  /** Returns the lines of a column; those of the rows that were taken last come first. */
  lines(column: string): Lines {
    const drawn = [...this.points].slice(0, MOST_LINES)
    const times = [...new Set(drawn.flatMap(([, points]) => points.map(({ at }) => at)))].sort((a, b) => a - b)
    const places = new Map(times.map((at, index) => [at, index]))
    const lines = drawn.map(([line, points]) => {
      const values = new Array<number | null>(times.length).fill(null)
      for (const { at, row } of points) values[places.get(at)!] = numberOf(row[column])
      return { name: line, values }
    })
    return { times, lines, left: this.points.size - drawn.length }
  }

  private keep(found: Map<string, Point[]>): void {
    const kept = [...found].slice(0, MOST_KEPT).map(([line, points]) => [line, points.slice(-MOST_POINTS)] as const)
    this.points = new Map(kept)
  }
}
