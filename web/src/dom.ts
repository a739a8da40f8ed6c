/** Helpers for DOM elements. */

type Child = Node | string | null | undefined | false
type Attributes = Record<string, string | number | boolean | undefined>

/**
 * Returns a new element: `el("p", {class: "quiet"}, "text", child)`. An attribute that is `false` or `undefined` is
 * left out, one that is `true` is set to the empty text.
 */
export function el<K extends keyof HTMLElementTagNameMap>(
  name: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue
    element.setAttribute(key, value === true ? "" : String(value))
  }
  element.append(
    ...children.filter((child): child is Node | string => child !== null && child !== undefined && child !== false),
  )
  return element
}

/** Returns the element with this id. Throws when the document does not have it. */
export function byId<T extends HTMLElement>(id: string): T {
  const element = document.getElementById(id)
  if (!element) throw new Error(`#${id} is missing`)
  return element as T
}

/** Sets the text of an element only if it differs, so that screen readers and the layout are not disturbed. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text
}

/** Returns a function that calls `callback` in the next frame, at most once per frame. */
export function perFrame(callback: () => void): () => void {
  let scheduled = false
  return () => {
    if (scheduled) return
    scheduled = true
    requestAnimationFrame(() => {
      scheduled = false
      callback()
    })
  }
}

/** Returns the page's letter size in CSS pixels. A wall of a large screen has a larger one. */
export function rem(): number {
  return Number.parseFloat(getComputedStyle(document.documentElement).fontSize) || 16
}

let ids = 0

/** Returns an id that no other element has. */
export function uid(name: string): string {
  ids += 1
  return `${name}-${ids}`
}
