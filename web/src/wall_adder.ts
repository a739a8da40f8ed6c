/** The form that adds a topic to a wall. */
import type { Query } from "./api"
import { el, uid } from "./dom"
import { SHAPE_NAMES } from "./explore"
import { SHAPES, type Shape, type Shown } from "./route"

/** The form with a choice of the query and of the shape. The parameters are set in the tile. */
export class Adder {
  readonly element: HTMLFormElement
  /** The first control. */
  readonly first = el("select", { id: uid("add-query") })

  constructor(queries: readonly Query[], onAdd: (shown: Shown) => void) {
    const shape = el("select", { id: uid("add-shape") }, ...SHAPES.map((name) => el("option", { value: name }, SHAPE_NAMES[name])))
    this.first.append(...queries.map(({ name, title }) => el("option", { value: name }, title ?? name)))
    this.element = el(
      "form",
      { class: "adder", "aria-label": "Add a topic" },
      el("label", { for: this.first.id }, "Topic"),
      this.first,
      el("label", { for: shape.id }, "as"),
      shape,
      el("button", { type: "submit", class: "primary", disabled: queries.length === 0 }, "Add"),
    )
    this.element.addEventListener("submit", (event) => {
      event.preventDefault()
      onAdd({ query: this.first.value, params: new Map(), shape: shape.value as Shape })
    })
  }
}
