/** The identity of this browser, stored in the browser only: a name that others see, a presence key and a token. */

const NAME = "pollcast.name"
const ID = "pollcast.id"
const TOKEN = "pollcast.token"

const ANIMALS = "Badger Crane Dormouse Fox Heron Ibex Lynx Marten Otter Puffin Stoat Wren".split(" ")
const COLOURS = "Amber Azure Coral Green Indigo Ivory Olive Red Silver Teal Violet White".split(" ")

/** Returns a random element. */
function pick(list: readonly string[]): string {
  return list[Math.floor(Math.random() * list.length)]!
}

/** Returns the name that others see; the first one is made up. */
export function name(): string {
  let known = localStorage.getItem(NAME)
  if (!known) {
    known = `${pick(COLOURS)} ${pick(ANIMALS)}`
    localStorage.setItem(NAME, known)
  }
  return known
}

/** Stores the name that others see. */
export function setName(text: string): void {
  localStorage.setItem(NAME, text)
}

/** Returns the presence key of this browser, which all its tabs share. */
export function id(): string {
  let known = localStorage.getItem(ID)
  if (!known) {
    known = `page-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`
    localStorage.setItem(ID, known)
  }
  return known
}

/** Returns this tab's token. */
export function token(): string | null {
  return sessionStorage.getItem(TOKEN)
}

/** Stores this tab's token. */
export function setToken(text: string): void {
  sessionStorage.setItem(TOKEN, text)
}
