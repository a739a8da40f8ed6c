/** The code that watches the shown topic from elsewhere, in several languages. */
import { copyButton } from "./copies"
import { el, uid } from "./dom"
import * as self from "./self"
import { LANGUAGES, snippet, type Language } from "./snippet"

/** A folded section with the code for one topic. */
export class Snippets {
  readonly element: HTMLElement
  private readonly choice = el("select", { id: uid("language") })
  private readonly code = el("code", {})
  private topic = ""

  constructor() {
    this.choice.append(...LANGUAGES.map((name) => el("option", { value: name }, name)))
    this.choice.addEventListener("change", () => this.write())
    this.element = el(
      "details",
      { class: "code" },
      el("summary", {}, "Use this topic in your code"),
      el(
        "div",
        { class: "tools" },
        el("label", { for: this.choice.id }, "Language"),
        this.choice,
        copyButton("Copy the code", () => this.code.textContent),
        el("a", { href: new URL("api/docs", document.baseURI).href }, "All queries of this gateway (OpenAPI)"),
      ),
      el("pre", { tabindex: 0, "aria-label": "The code" }, this.code),
    )
  }

  /** Shows the code for a topic, as in `live:orders?region=north`. */
  show(topic: string): void {
    this.topic = topic
    this.write()
  }

  private write(): void {
    const base = new URL(".", document.baseURI).href
    this.code.textContent = snippet(this.choice.value as Language, this.topic, base, self.token() !== null)
  }
}
