/** The state of the page's connection to its gateway, in the header. */
import type { LiveSocket } from "@pollcast/client"
import { setText } from "./dom"

const WORDS = { offline: "offline", lost: "reconnecting", closed: "disconnected", failed: "disconnected" } as const

/** Shows in `element` whether the page is connected. */
export class Link {
  constructor(private readonly element: HTMLElement) {}

  /** Shows the state of this socket from now on. */
  follow(socket: LiveSocket): void {
    this.show("connecting", "connecting")
    socket.onOpen(() => this.show("live", "connected"))
    socket.onOutage(({ kind, reason }) => this.show(kind === "offline" ? "offline" : "lost", WORDS[kind], reason))
  }

  private show(state: string, word: string, reason = ""): void {
    this.element.hidden = false
    this.element.dataset["link"] = state
    this.element.title = reason
    setText(this.element, word)
  }
}
