/** The view of the cluster for operators: nodes, topics by owner, load and the latest takeovers. */
import * as access from "./access"
import { ApiError, get, type Cluster, type ClusterNode, type Takeover } from "./api"
import { el, setText } from "./dom"
import { savings } from "./savings"
import * as self from "./self"
import { drawSpark } from "./spark"
import { ago, clock, count, short } from "./values"

/** Time between two requests of the cluster's state. */
const EVERY_MS = 1000
/** Number of points that the small chart of polls per second keeps. */
const SPARK_POINTS = 120
/** Number of points from which on it is shown. */
const SPARK_FEWEST = 8
/** Its height in CSS pixels. */
const SPARK_PX = 56

/** The view of the cluster, which updates itself until `close()`. */
export class ClusterView {
  readonly element: HTMLElement
  private readonly trouble = el("p", { class: "why", role: "status" })
  private readonly numbers = el("div", { class: "numbers" })
  private readonly savings = el("p", { class: "savings quiet" })
  private readonly nodes = el("div", { class: "nodes" })
  private readonly owners = el("div", { class: "owners" })
  private readonly takeovers = el("ol", { class: "timeline", "aria-live": "polite" })
  private readonly spark = el("canvas", { class: "spark", role: "img", "aria-label": "Polls per second, over time" })
  private readonly figure = el(
    "figure",
    { class: "card", hidden: true },
    el("figcaption", { class: "quiet" }, "polls per second since you opened this view"),
    this.spark,
  )
  private readonly history: number[] = []
  private timer = 0
  private closed = false

  constructor() {
    this.element = el(
      "article",
      {},
      el("header", { class: "title" }, el("h1", {}, "The cluster")),
      this.trouble,
      this.numbers,
      this.savings,
      this.figure,
      el("h2", {}, "Nodes"),
      this.nodes,
      el(
        "div",
        { class: "beside" },
        el("section", {}, el("h2", {}, "Topics by owner"), this.owners),
        el("section", {}, el("h2", {}, "Latest takeovers"), this.takeovers),
      ),
    )
    void this.follow()
  }

  /** Ends the updates. */
  close(): void {
    this.closed = true
    window.clearTimeout(this.timer)
  }

  private async follow(): Promise<void> {
    const tried = self.token()
    try {
      const cluster = await get<Cluster>("api/cluster", tried)
      if (this.closed) return
      setText(this.trouble, "")
      this.show(cluster)
    } catch (error) {
      if (!(error instanceof ApiError)) throw error
      setText(this.trouble, `The data below are out of date: ${error.detail}.`)
      if (error.status === 401) access.refuse(tried, error.detail)
    }
    if (!this.closed) this.timer = window.setTimeout(() => void this.follow(), EVERY_MS)
  }

  private show(cluster: Cluster): void {
    const clients = cluster.nodes.reduce((sum, node) => sum + (node.clients ?? 0), 0)
    const polls = cluster.polls_per_second
    // The polls without Pollcast: each subscription would poll as often as its topic is polled now.
    const factor = cluster.topics_total && cluster.subscriptions ? cluster.subscriptions / cluster.topics_total : null
    const alone = polls === null || factor === null ? "–" : short(polls * factor)
    const statements = cluster.statements_per_second === null ? "…" : short(cluster.statements_per_second)
    this.numbers.replaceChildren(
      number(polls === null ? "…" : short(polls), "polls per second", `in ${statements} statements to the database`),
      number(short(cluster.subscriptions), "subscriptions served", `to ${count(clients, "connected client")}`),
      number(alone, "polls/s without Pollcast", "if every subscription polled for itself"),
      number(
        short(cluster.topics_total),
        "topics",
        factor === null ? "no subscriptions now" : `each with ${short(factor)} subscriptions on average`,
      ),
    )
    setText(this.savings, savings(cluster) ?? "")
    if (polls !== null) this.drawSpark(polls)
    this.showNodes(cluster.nodes)
    this.showOwners(cluster)
    this.showTakeovers(cluster.takeovers)
  }

  private showNodes(nodes: readonly ClusterNode[]): void {
    const load = (node: ClusterNode): string => {
      if (node.role === "gateway")
        return node.clients === null
          ? "does not answer"
          : `${count(node.clients, "client")}, ${count(node.subscriptions ?? 0, "subscription")}`
      if (node.role === "poller") {
        const rate = node.polls_per_second === null ? "…" : short(node.polls_per_second)
        return `${count(node.topics ?? 0, "topic")}, ${rate} polls/s`
      }
      return "–"
    }
    const head = ["node", "role", "state", "load", "uptime"].map((text) => el("th", { scope: "col" }, text))
    const rows = nodes.map((node) =>
      el(
        "tr",
        { "data-node": node.name },
        el("th", { scope: "row" }, node.name),
        el("td", {}, node.role),
        el("td", {}, el("span", { class: "node-state", "data-state": node.state }, node.state)),
        el("td", {}, load(node)),
        el("td", {}, ago(Date.now() - Date.parse(node.started_at))),
      ),
    )
    this.nodes.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows)))
  }

  private showOwners({ nodes, topics, topics_total }: Cluster): void {
    const owners = new Map<string, string[]>(
      nodes.filter((node) => node.role === "poller").map((node) => [node.name, []]),
    )
    for (const { topic, owner } of topics) {
      const list = owners.get(owner) ?? []
      owners.set(owner, list)
      list.push(topic)
    }
    const cards = [...owners].map(([owner, owned]) =>
      el(
        "section",
        { class: "card", "data-owner": owner },
        el("h3", {}, owner),
        el("ul", {}, ...owned.map((topic) => el("li", {}, topic))),
        owned.length === 0 && el("p", { class: "quiet" }, "no topics"),
      ),
    )
    const more = topics_total - topics.length
    this.owners.replaceChildren(...cards, ...(more > 0 ? [el("p", { class: "quiet" }, `and ${more} more topics`)] : []))
  }

  private showTakeovers(takeovers: readonly Takeover[]): void {
    const known = `${takeovers[0]?.at ?? ""} ${takeovers.length}`
    if (this.takeovers.dataset["known"] === known) return
    this.takeovers.dataset["known"] = known
    if (!takeovers.length) {
      this.takeovers.replaceChildren(
        el("li", { class: "quiet" }, "None since this gateway started. Kill a poller and watch."),
      )
      return
    }
    this.takeovers.replaceChildren(
      ...takeovers.map(({ topic, from, to, at, gap_ms }) =>
        el(
          "li",
          { "data-how": gap_ms > 0 ? "taken" : "handed" },
          el("time", { datetime: at }, clock(at)),
          " ",
          el("strong", {}, topic),
          ` ${from} → ${to} `,
          el(
            "span",
            { class: "quiet" },
            gap_ms > 0 ? `no owner for ${Math.max(1, Math.round(gap_ms))}\u00a0ms` : "handed over",
          ),
        ),
      ),
    )
  }

  private drawSpark(polls: number): void {
    this.history.push(polls)
    if (this.history.length > SPARK_POINTS) this.history.shift()
    this.figure.hidden = this.history.length < SPARK_FEWEST
    if (this.figure.hidden) return
    drawSpark(this.spark, this.history, { width: this.spark.clientWidth, height: SPARK_PX }, { low: 0, fewest: 30 })
  }
}

function number(value: string, what: string, more: string): HTMLElement {
  return el(
    "div",
    { class: "number-card" },
    el("strong", {}, value),
    el("span", {}, what),
    el("span", { class: "quiet" }, more),
  )
}
