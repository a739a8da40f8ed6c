/** Moving and resizing a tile of a wall, with the mouse, a finger or the arrow keys. */
import { COLUMNS, type Place } from "./layout"

/** The two parts of a tile that are taken hold of. */
export interface Handles {
  move: HTMLElement
  size: HTMLElement
}

/** What arranging needs of the wall. */
export interface Arranging {
  grid: HTMLElement
  place: () => Place
  /** Shows how the wall would be after a change; null shows it as it is. */
  preview: (by: Partial<Place> | null) => void
  commit: (by: Partial<Place>) => void
}

/** The steps of the arrow keys, in columns and rows. */
const STEPS: Record<string, readonly [number, number] | undefined> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
}

/** Makes a tile follow its handles. */
export function arrangeable(tile: HTMLElement, { move, size }: Handles, arranging: Arranging): void {
  const moved = ({ x, y }: Place, right: number, down: number): Partial<Place> => ({
    x: Math.max(0, x + right),
    y: Math.max(0, y + down),
  })
  const sized = ({ w, h }: Place, right: number, down: number): Partial<Place> => ({ w: w + right, h: h + down })
  for (const [handle, by] of [[move, moved], [size, sized]] as const) {
    drag(tile, handle, arranging, by)
    handle.addEventListener("keydown", (event) => {
      const step = STEPS[event.key]
      if (!step || event.ctrlKey || event.altKey || event.metaKey) return
      event.preventDefault()
      // With Shift, the handle that moves a tile resizes it.
      const change = event.shiftKey ? sized : by
      arranging.commit(change(arranging.place(), ...step))
      handle.focus()
    })
  }
}

function drag(
  tile: HTMLElement,
  handle: HTMLElement,
  { grid, place, preview, commit }: Arranging,
  by: (place: Place, right: number, down: number) => Partial<Place>,
): void {
  handle.addEventListener("pointerdown", (start) => {
    if (start.button !== 0) return
    start.preventDefault()
    handle.focus()
    handle.setPointerCapture(start.pointerId)
    tile.classList.add("dragged")
    const from = { ...place() }
    const { width } = grid.getBoundingClientRect()
    const style = getComputedStyle(grid)
    const gap = Number.parseFloat(style.columnGap) || 0
    const column = (width + gap) / COLUMNS
    const row = (tile.getBoundingClientRect().height + gap) / from.h
    const scrolled = scrollY
    let last: Partial<Place> | null = null
    const follow = (event: PointerEvent): void => {
      const right = Math.round((event.clientX - start.clientX) / column)
      const down = Math.round((event.clientY + scrollY - start.clientY - scrolled) / row)
      last = right || down ? by(from, right, down) : null
      preview(last)
    }
    const end = (event: Event): void => {
      handle.removeEventListener("pointermove", follow)
      handle.removeEventListener("pointerup", end)
      handle.removeEventListener("pointercancel", end)
      document.removeEventListener("keydown", cancel, true)
      tile.classList.remove("dragged")
      if (event.type === "pointerup" && last) commit(last)
      else preview(null)
    }
    const cancel = (event: KeyboardEvent): void => {
      if (event.key !== "Escape") return
      event.stopPropagation()
      end(event)
    }
    handle.addEventListener("pointermove", follow)
    handle.addEventListener("pointerup", end)
    handle.addEventListener("pointercancel", end)
    document.addEventListener("keydown", cancel, true)
  })
}
