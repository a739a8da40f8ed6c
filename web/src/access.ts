/**
 * The token of this tab, where the gateway asks for one.
 *
 * Whoever needs one awaits `token(…)`: the socket for each connection and some time before the one that it has expires.
 * When there is none to give, a form above the page asks for another; what the page shows stays, and grows old in sight.
 * A token is known to be bad only from the gateway: this computer's clock may be wrong.
 */
import { claims, expiresAt } from "@pollcast/client"
import { ApiError, get } from "./api"
import { byId, el, setText } from "./dom"
import * as self from "./self"
import { clock } from "./values"

interface Waiting {
  /** What it has already: another is wanted. */
  but: string | null
  give: (token: string | null) => void
}

const place = byId("access")
const heading = el("h2", {})
const why = el("p", { id: "token-why", class: "quiet" })
const wrong = el("p", { id: "token-wrong", class: "why", role: "alert" })
const field = el("input", {
  id: "token",
  name: "token",
  type: "password",
  required: true,
  pattern: "[!-~]+",
  title: "A token holds no spaces and no accents",
  autocomplete: "off",
  spellcheck: "false",
  "aria-describedby": "token-why token-wrong",
})
const later = el("button", { type: "button" }, "Later")
const form = el(
  "form",
  { "aria-label": "Token" },
  heading,
  why,
  el("div", { class: "asked" }, el("label", { for: "token" }, "Token"), field, el("button", { type: "submit", class: "primary" }, "Go on"), later),
  wrong,
)

let refused: string | null = null
let waiting: Waiting[] = []
const listeners: ((token: string) => void)[] = []

/** Calls back with each token that is entered. */
export function onEntered(callback: (token: string) => void): void {
  listeners.push(callback)
}

/** The presence key of this browser: who the token says one is, else a number of its own. */
export function key(): string {
  const subject = claims(self.token() ?? "")?.["sub"]
  return typeof subject === "string" ? subject : self.id()
}

/** A token for a connection, null where none is known to be needed; or another than the one that is about to expire. */
export function token(expiring: string | null = null): Promise<string | null> {
  const known = self.token()
  const good = known === null ? refused === null && expiring === null : known !== refused && known !== expiring
  if (good) return Promise.resolve(known)
  return new Promise((give) => {
    waiting.push({ but: expiring, give })
    if (expiring !== null && place.hidden) {
      const at = expiresAt(expiring)
      const when = at === null ? "soon" : `at ${clock(at)}`
      ask("Your token expires soon", `It ends ${when}. With another one everything goes on without a break.`, true)
    }
  })
}

/** The gateway would not have this token (null: none at all). */
export function refuse(bad: string | null, detail: string): void {
  if (bad !== self.token()) return // it is another by now
  refused = bad ?? ""
  const shown = document.querySelector("article") ? " What you see stays as it is until then." : ""
  if (bad === null) ask("A token is needed", `The gateway shows live data to those who have one.${shown}`, false)
  else ask("Another token is needed", `The gateway says of yours: ${detail}.${shown}`, false)
}

/** Looks whether it is the token that keeps a connection from being opened: browsers don't tell pages why. */
export async function probe(): Promise<void> {
  const tried = self.token()
  try {
    await get("/api/queries", tried)
  } catch (error) {
    if (!(error instanceof ApiError)) throw error
    if (error.status === 401) refuse(tried, error.detail)
  }
}

function ask(title: string, detail: string, canWait: boolean): void {
  setText(heading, title)
  setText(why, detail)
  setText(wrong, "")
  field.value = ""
  later.hidden = !canWait
  if (place.hidden) {
    place.hidden = false
    if (!canWait && (document.activeElement === document.body || document.activeElement === null)) field.focus() // who is typing goes on
  }
}

function enter(text: string): void {
  if (text === refused) {
    setText(wrong, "This is the token that the gateway would not have.")
    field.select()
    return
  }
  refused = null
  self.setToken(text)
  field.value = ""
  place.hidden = true
  const given = waiting.filter(({ but }) => but !== text)
  waiting = waiting.filter(({ but }) => but === text)
  for (const { give } of given) give(text)
  for (const callback of listeners) callback(text)
}

form.addEventListener("submit", (event) => {
  event.preventDefault()
  enter(field.value.trim())
})
later.addEventListener("click", () => (place.hidden = true))
form.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !later.hidden) place.hidden = true
})
place.append(form)
