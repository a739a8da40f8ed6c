/** What all ways to show a result have in common. */
import type { Result } from "@pollcast/client"
import type { Look } from "./route"

/** An element that shows a topic's results. */
export interface View {
  readonly element: HTMLElement
  /** Shows a result in the next frame. */
  show(result: Result): void
  /** Shows the result in another way. */
  restyle(look: Look): void
  /** Releases listeners and canvases. */
  close(): void
}

/** What a view needs of its surroundings. */
export interface ViewOptions {
  /** The name of the result for screen readers. */
  label: string
  look: Look
  /** Called when the user chooses another way to show the result. */
  onLook: (look: Look) => void
  /** Whether the view fills the height of its place, as a tile of a wall does. */
  fill: boolean
}
