/** The cost of all polls and what was saved, in one line. Pure: no I/O. */
import type { PollRates } from "./api"
import { short } from "./values"

const UNITS = [[1e9, "GB"], [1e6, "MB"], [1e3, "KB"]] as const
/** A rate below this is left out, as it would read 0. */
const LEAST = 0.05

/** Returns the text of a number of bytes: `35 KB`. */
export function bytes(number: number): string {
  for (const [unit, name] of UNITS) if (number >= unit) return `${short(Math.round((10 * number) / unit) / 10)} ${name}`
  return `${Math.round(number)} B`
}

/** Returns the line, for example `1,204 polls/s, 98 % without rows, 35 KB/s from the database`; null if not known. */
export function savings(rates: PollRates): string | null {
  const polls = rates.polls_per_second
  if (polls === null) return null
  const parts = [`${short(polls)} polls/s`]
  if (polls > 0) parts.push(`${Math.round(100 * Math.min(1, (rates.unsent_per_second ?? 0) / polls))} % without rows`)
  parts.push(`${bytes(rates.bytes_per_second ?? 0)}/s from the database`)
  const avoided = rates.avoided_per_second ?? 0
  if (avoided >= LEAST) parts.push(`${short(avoided)} statements/s avoided by probes`)
  const hinted = rates.hinted_per_second ?? 0
  if (hinted >= LEAST) parts.push(`${short(hinted)} hints/s`)
  return parts.join(", ")
}
