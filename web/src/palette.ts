/** The colours of a chart: eight that people with colour blindness can tell apart, in a light and a dark version. */

/** The lines' colours are the properties `--line-1` to `--line-8` of page.css; the second four are dashed as well. */
export const COLOURS = 8

/** Returns the dashes of a line, so that colour is not all that tells lines apart. */
export function dashes(at: number): number[] {
  return at % COLOURS < COLOURS / 2 ? [] : [6, 4]
}

/** Returns a colour of the page, as the canvas needs it. */
export function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim()
}

/** Returns the colour of a line; a chart of a single line has the page's accent. */
export function lineColour(at: number, lines: number): string {
  return colour(lines === 1 ? "--accent" : `--line-${(at % COLOURS) + 1}`)
}

const dark = matchMedia("(prefers-color-scheme: dark)")
const listeners = new Set<() => void>()
dark.addEventListener("change", changed)

/** Calls `listener` after each change of the page's colours, until the returned function is called. */
export function onColours(listener: () => void): () => void {
  listeners.add(listener)
  return () => void listeners.delete(listener)
}

/** Reports that the page's colours have changed. */
function changed(): void {
  for (const listener of listeners) listener()
}

/** Sets the colours: light, dark, or those of the browser. */
export function setTheme(theme: "light" | "dark" | null): void {
  const root = document.documentElement
  if ((root.dataset["theme"] ?? null) === theme) return
  if (theme) root.dataset["theme"] = theme
  else delete root.dataset["theme"]
  changed()
}
