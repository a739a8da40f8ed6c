/** The members of the topic: one round badge with initials and the name per member, however many connections it has. */
import type { Listed } from "@pollcast/client"
import { el } from "./dom"

/** Number of members that are shown by name. */
const MOST = 12

/** The list of members. */
export class People {
  readonly element = el("ul", { class: "people", "aria-label": "People on this topic" })

  /** Shows the members; `own` is this browser's key. */
  show(presence: readonly Listed[], own: string): void {
    const people = presence.map(({ key, metas }) => {
      const name = metas.map((meta) => meta["name"]).findLast((text) => typeof text === "string" && text !== "")
      return { key, name: typeof name === "string" ? name : key, tabs: metas.length }
    })
    people.sort((a, b) => Number(b.key === own) - Number(a.key === own) || a.name.localeCompare(b.name))
    const shown = people.slice(0, MOST).map(({ key, name, tabs }) => {
      const text = key === own ? `${name} (you)` : name
      const badge = el("span", { class: "avatar", "aria-hidden": "true", "data-hue": hue(key) }, initials(name))
      return el(
        "li",
        { title: tabs > 1 ? `${text}, ${tabs} connections` : text },
        badge,
        el("span", { class: "name" }, text),
      )
    })
    if (people.length > MOST) shown.push(el("li", {}, `and ${people.length - MOST} more`))
    this.element.replaceChildren(...shown)
  }
}

function initials(name: string): string {
  const words = name.split(/[\s@._-]+/).filter(Boolean)
  return [...words.slice(0, 2).map((word) => [...word][0] ?? "")].join("").toUpperCase() || "?"
}

/** Returns the number of one of twelve colours; the same key has the same colour in every browser. */
function hue(key: string): number {
  let sum = 0
  for (const letter of key) sum = (sum * 31 + letter.codePointAt(0)!) >>> 0
  return sum % 12
}
