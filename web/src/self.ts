/** Who is at this browser: a token where one is asked for, and a name that others see. Kept in the browser only. */

const NAME = "pollcast.name"
const ID = "pollcast.id"
const TOKEN = "pollcast.token"

const ANIMALS = ["Badger", "Crane", "Dormouse", "Fox", "Heron", "Ibex", "Lynx", "Marten", "Otter", "Puffin", "Stoat", "Wren"]
const COLOURS = ["Amber", "Azure", "Coral", "Green", "Indigo", "Ivory", "Olive", "Red", "Silver", "Teal", "Violet", "White"]

function pick(list: readonly string[]): string {
  return list[Math.floor(Math.random() * list.length)]!
}

export function name(): string {
  let known = localStorage.getItem(NAME)
  if (!known) {
    known = `${pick(COLOURS)} ${pick(ANIMALS)}`
    localStorage.setItem(NAME, known)
  }
  return known
}

export function setName(text: string): void {
  localStorage.setItem(NAME, text)
}

/** The presence key of this browser; its tabs are one person. */
export function id(): string {
  let known = localStorage.getItem(ID)
  if (!known) {
    known = `page-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`
    localStorage.setItem(ID, known)
  }
  return known
}

export function token(): string | null {
  return sessionStorage.getItem(TOKEN)
}

export function setToken(text: string): void {
  sessionStorage.setItem(TOKEN, text)
}
