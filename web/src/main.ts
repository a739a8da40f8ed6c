/** The entry point of the page: it shows the view that the address names. */
import { connect } from "@pollcast/client"
import type { Socket } from "phoenix"
import * as access from "./access"
import { ApiError, get, type Query } from "./api"
import { ClusterView } from "./cluster"
import { byId, el } from "./dom"
import { Explore } from "./explore"
import { Link } from "./link"
import { format, formatWall, parse, type Shown } from "./route"
import * as self from "./self"
import { lastWall, Wall, withTile } from "./wall"

const main = byId("main")
const catalogue = byId<HTMLUListElement>("catalogue")
const link = new Link(byId("link"))
const nameField = byId<HTMLInputElement>("name")

const TOKEN_EXPIRED = 4001

let socket: Socket | null = null
let queries: Query[] = []
let shown: Explore | ClusterView | Wall | null = null

/** Returns the page's socket; opens it on first use. */
function open(): Socket {
  if (socket) return socket
  let opened = false
  const connection = connect(new URL("socket", document.baseURI).pathname, {
    token: access.token,
    onTokenRefused: (_, { reason }) => {
      // A valid token of another subject needs a connection of its own.
      if (reason === "forbidden") connection.disconnect(() => connection.connect())
      else void access.probe()
    },
  })
  connection.onOpen(() => {
    opened = true
  })
  connection.onClose(({ code }) => {
    if (code === TOKEN_EXPIRED) access.refuse(connection.token, "the token has expired")
    else if (!opened) void access.probe()
    opened = false
  })
  link.follow(connection)
  socket = connection
  return connection
}

/** Shows the view that the address names. */
function show(): void {
  const route = parse(location.hash)
  if (route.view === "none") {
    const [first] = queries
    if (first) location.replace(format(first.name, new Map(), "table"))
    else main.replaceChildren(el("p", { class: "quiet" }, "The catalogue has no queries."))
    return
  }
  mark(route.view, route.view === "topic" ? route.query : null)
  if (route.view === "cluster") {
    if (shown instanceof ClusterView) return
    replace(new ClusterView(), "The cluster")
    return
  }
  if (route.view === "wall") {
    if (shown instanceof Wall) shown.follow(route)
    else replace(new Wall(open(), queries, route), "Wall")
    return
  }
  if (shown instanceof Explore && shown.query.name === route.query && shown.follow(route)) return
  const query = queries.find((each) => each.name === route.query)
  if (!query) {
    shown?.close()
    shown = null
    main.replaceChildren(
      el("p", { class: "why", role: "alert" }, `There is no query “${route.query}” in the catalogue.`),
    )
    return
  }
  replace(new Explore(open(), query, route, pin), query.title ?? query.name)
}

/** Closes the current view and shows another. */
function replace(view: Explore | ClusterView | Wall, title: string): void {
  shown?.close()
  shown = view
  main.replaceChildren(view.element)
  document.title = `${title} · Pollcast`
}

/** Adds a topic to the wall that was shown last, and shows it. */
function pin(topic: Shown): void {
  const last = parse(lastWall())
  const wall = last.view === "wall" ? last : { tiles: [], theme: null }
  location.hash = formatWall({ tiles: withTile(wall.tiles, topic), full: false, theme: wall.theme })
}

/** Marks the link of the current view, and that of the current query. */
function mark(view: "topic" | "cluster" | "wall", query: string | null): void {
  const current = view === "topic" ? "explore" : view
  for (const each of document.querySelectorAll<HTMLAnchorElement>("a[data-view], a[data-query]")) {
    if (each.dataset["view"] === current || (query !== null && each.dataset["query"] === query)) {
      each.setAttribute("aria-current", "page")
    } else each.removeAttribute("aria-current")
  }
  const chosen = catalogue.querySelector<HTMLElement>("[aria-current]")
  const strip = catalogue.parentElement // on a phone it scrolls sideways
  if (chosen && strip) strip.scrollLeft = chosen.offsetLeft - (strip.clientWidth - chosen.offsetWidth) / 2
  document.body.dataset["view"] = current
}

/** Lists the queries of the catalogue. */
function list(): void {
  catalogue.replaceChildren(
    ...queries.map((query) =>
      el(
        "li",
        {},
        el(
          "a",
          { href: format(query.name, new Map(), "table"), "data-query": query.name },
          el("span", {}, query.title ?? query.name),
          el("code", {}, query.name),
        ),
      ),
    ),
  )
}

/** Loads the catalogue and shows the first view; tries again until it succeeds or a token is needed. */
async function start(): Promise<void> {
  const tried = self.token()
  try {
    queries = (await get<{ queries: Query[] }>("api/queries", tried)).queries
  } catch (error) {
    if (!(error instanceof ApiError)) throw error
    if (error.status === 401) {
      main.replaceChildren(el("p", { class: "quiet" }, "This gateway requires a token to show its catalogue."))
      access.refuse(tried, error.detail)
      return // `onEntered` calls start again
    }
    main.replaceChildren(
      el("p", { class: "why", role: "alert" }, `The catalogue could not be loaded: ${error.detail}. Trying again …`),
    )
    setTimeout(() => void start(), 2000)
    return
  }
  list()
  show()
}

access.onEntered(() => {
  if (!queries.length) void start()
})
nameField.value = self.name()
byId<HTMLFormElement>("me").addEventListener("submit", (event) => {
  event.preventDefault()
  nameField.blur()
})
nameField.addEventListener("change", () => {
  const text = nameField.value.trim()
  if (text) self.setName(text)
  else nameField.value = self.name()
  if (shown instanceof Explore) shown.rename(self.name())
})
document.querySelector<HTMLAnchorElement>('a[data-view="wall"]')!.hash = lastWall()
window.addEventListener("hashchange", show)
void start()
