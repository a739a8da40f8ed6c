/**
 * The token of this tab, for gateways that require one.
 *
 * The socket awaits `token(…)` for each connection, and again some time before its token expires. When there is no
 * token to return, a form above the page asks for one; meanwhile the page keeps its data and shows how old they are.
 * Only the gateway decides that a token is bad, because the clock of this computer may be wrong.
 */
import { claims, expiresAt } from "@pollcast/client"
import { ApiError, get } from "./api"
import { byId, el, setText } from "./dom"
import * as self from "./self"
import { moment } from "./values"

/** A call of `token` that awaits its result. */
interface Waiting {
  /** The token that the caller has and wants to replace. */
  replaced: string | null
  resolve: (token: string | null) => void
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
  el(
    "div",
    { class: "asked" },
    el("label", { for: "token" }, "Token"),
    field,
    el("button", { type: "submit", class: "primary" }, "Use this token"),
    later,
  ),
  wrong,
)

let refused: string | null = null
let waiting: Waiting[] = []
const listeners: ((token: string) => void)[] = []

/** Registers a callback for each token that is entered. */
export function onEntered(callback: (token: string) => void): void {
  listeners.push(callback)
}

/** Returns the presence key of this browser: the token's claim `sub`, or else a random identifier. */
export function key(): string {
  const subject = claims(self.token() ?? "")?.["sub"]
  return typeof subject === "string" ? subject : self.id()
}

/** Returns a token for a connection, or null while the gateway has required none; or one that replaces `expiring`. */
export function token(expiring: string | null = null): Promise<string | null> {
  const known = self.token()
  const usable = known === null ? refused === null && expiring === null : known !== refused && known !== expiring
  if (usable) return Promise.resolve(known)
  return new Promise((resolve) => {
    waiting.push({ replaced: expiring, resolve })
    if (expiring !== null && place.hidden) {
      const at = expiresAt(expiring)
      const when = at === null ? "soon" : `at ${moment(at)}`
      ask(
        "Your token expires soon",
        `It expires ${when}. Enter another one now to continue without an interruption.`,
        true,
      )
    }
  })
}

/** Records that the gateway refused a token, or a request without one (null), and asks for another token. */
export function refuse(bad: string | null, detail: string): void {
  if (bad !== self.token()) return // another token was entered meanwhile
  refused = bad ?? ""
  const shown = document.querySelector("article") ? " The data on this page stay as they are until then." : ""
  if (bad === null) ask("A token is needed", `This gateway requires a token for live data.${shown}`, false)
  else ask("Another token is needed", `The gateway refused yours: ${detail}.${shown}`, false)
}

/** Finds out whether a connection failed because of the token: a browser does not report why a WebSocket failed. */
export async function probe(): Promise<void> {
  const tried = self.token()
  try {
    await get("api/queries", tried)
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
    const idle = document.activeElement === document.body || document.activeElement === null
    if (!canWait && idle) field.focus() // not while the user types elsewhere
  }
}

function enter(text: string): void {
  if (text === refused) {
    setText(wrong, "The gateway has refused this token.")
    field.select()
    return
  }
  refused = null
  self.setToken(text)
  field.value = ""
  place.hidden = true
  const served = waiting.filter(({ replaced }) => replaced !== text)
  waiting = waiting.filter(({ replaced }) => replaced === text)
  for (const { resolve } of served) resolve(text)
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
