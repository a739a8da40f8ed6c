/** Copying and downloading a result as CSV. */
import type { Result } from "@pollcast/client"
import { csv } from "./columns"
import { el, setText } from "./dom"

/** Time for which a button says that it has copied. */
const SAID_MS = 2000

/** Returns the buttons that copy and download the result as it is when they are pressed. */
export function copies(name: string, result: () => Result | null): HTMLElement[] {
  const copy = copyButton("Copy as CSV", () => csv(result()?.rows ?? []))
  const save = el("button", { type: "button" }, "Download CSV")
  save.addEventListener("click", () => {
    const address = URL.createObjectURL(new Blob([csv(result()?.rows ?? [])], { type: "text/csv" }))
    el("a", { href: address, download: `${name}.csv` }).click()
    setTimeout(() => URL.revokeObjectURL(address), SAID_MS)
  })
  return [copy, save]
}

/** Returns a button that copies a text. */
export function copyButton(label: string, text: () => string): HTMLButtonElement {
  const button = el("button", { type: "button", "aria-live": "polite" }, label)
  button.addEventListener("click", () => {
    void copyText(text()).then((copied) => {
      setText(button, copied ? "Copied" : "Not allowed by the browser")
      setTimeout(() => setText(button, label), SAID_MS)
    })
  })
  return button
}

/** Copies a text; returns whether the browser allowed it. Without HTTPS it has only the old way to copy. */
async function copyText(text: string): Promise<boolean> {
  if ("clipboard" in navigator) {
    return navigator.clipboard.writeText(text).then(
      () => true,
      () => copySelected(text),
    )
  }
  return copySelected(text)
}

function copySelected(text: string): boolean {
  const field = el("textarea", { class: "unseen", "aria-hidden": "true", tabindex: -1 })
  field.value = text
  document.body.append(field)
  field.select()
  const copied = document.execCommand("copy")
  field.remove()
  return copied
}
