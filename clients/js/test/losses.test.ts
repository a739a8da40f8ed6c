import { afterEach, beforeEach, expect, test, vi } from "vitest"
import { connect, LiveSocket, watch, type Change, type LiveQuery, type Status } from "../src/index.js"
import { ModelGateway, random } from "./model.js"

const TOPICS = ["live:a", "live:b"]
const SEEDS = 150
const STEPS = 60
const CALM_MS = 100_000

let gateway: ModelGateway
let target: EventTarget
let socket: LiveSocket

beforeEach(() => {
  vi.useFakeTimers({ now: 1_700_000_000_000 })
  vi.spyOn(console, "error").mockImplementation(() => undefined)
  target = new EventTarget()
  vi.stubGlobal("addEventListener", target.addEventListener.bind(target))
  vi.stubGlobal("removeEventListener", target.removeEventListener.bind(target))
  gateway = new ModelGateway()
})

afterEach(() => {
  socket.disconnect()
  vi.useRealTimers()
  vi.unstubAllGlobals()
  vi.restoreAllMocks()
})

const pass = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms)
const open = (heartbeatMs?: number): LiveSocket =>
  (socket = connect("ws://gateway/socket", { socket: { transport: gateway.transport }, ...(heartbeatMs ? { heartbeatMs } : {}) }))
const say = (name: string): void => void target.dispatchEvent(new Event(name))

/** A watch with what it reported. */
class Seen {
  readonly changes: Change[] = []
  readonly live: LiveQuery

  constructor(readonly topic: string, options = {}) {
    this.live = watch(socket, topic, options, (change) => this.changes.push(change))
  }

  get states(): Status["state"][] {
    return this.changes.filter(({ kind }) => kind === "status").map(({ status }) => status.state)
  }

  get last(): Change | undefined {
    return this.changes.at(-1)
  }
}

/** The faults and other events of a schedule. */
const EVENTS: Record<string, (next: () => number, seen: Seen[]) => void> = {
  cut: () => gateway.open.forEach((each) => each.lose(1006)),
  drain: () => gateway.open.forEach((each) => each.lose(1012)),
  freeze: () => gateway.open.forEach((each) => (each.frozen = true)),
  refuse: () => (gateway.refusing = !gateway.refusing),
  silence: () => (gateway.silent = !gateway.silent),
  hurry: () => (gateway.busy = !gateway.busy),
  stale: () => gateway.setState("stale"),
  live: () => gateway.setState("live"),
  close: (next) => gateway.drop(TOPICS[Math.floor(next() * 2)]!, "phx_close"),
  error: (next) => gateway.drop(TOPICS[Math.floor(next() * 2)]!, "phx_error"),
  offline: () => say("offline"),
  online: () => say("online"),
  sleep: () => {
    gateway.open.forEach((each) => each.lose(1001))
    vi.setSystemTime(Date.now() + 3_600_000)
  },
  watch: (next, seen) => seen.push(new Seen(TOPICS[Math.floor(next() * 2)]!)),
  stop: (next, seen) => seen.splice(Math.floor(next() * seen.length), 1)[0]?.live.stop(),
}
const NAMES = Object.keys(EVENTS)

test("after any schedule of losses every watch shows the topic's rows, and nothing loops", async () => {
  for (let seed = 0; seed < SEEDS; seed += 1) {
    gateway = new ModelGateway()
    const next = random(seed)
    open()
    const seen = TOPICS.map((topic) => new Seen(topic))
    const story: string[] = []
    for (let step = 0; step < STEPS; step += 1) {
      for (const topic of TOPICS) if (next() < 0.5) gateway.change(topic, next)
      if (next() < 0.3) {
        const name = NAMES[Math.floor(next() * NAMES.length)]!
        story.push(name)
        EVENTS[name]!(next, seen)
      }
      const before = gateway.opened
      await pass(next() < 0.1 ? 30_000 : next() * 1000)
      gateway.reap()
      expect(gateway.opened - before, `seed ${seed}: ${story.join(" ")}`).toBeLessThan(20)
    }
    Object.assign(gateway, { refusing: false, silent: false, busy: false })
    gateway.setState("live")
    await pass(CALM_MS)
    for (const topic of TOPICS) gateway.change(topic, next)
    const { joins, opened } = gateway
    await pass(CALM_MS)
    gateway.reap()
    const about = `seed ${seed}: ${story.join(" ")}`
    for (const { topic, live, last } of seen) {
      expect(live.status.state, about).toBe("live")
      expect(last?.rows, about).toEqual(gateway.topic(topic).rows)
    }
    expect([gateway.joins, gateway.opened], about).toEqual([joins, opened])
    socket.disconnect()
    await pass(CALM_MS)
  }
}, 60_000)

test("the watches of a topic share one channel, and each ends by itself", async () => {
  open()
  const next = random(1)
  gateway.change("live:a", next)
  const [one, two] = [new Seen("live:a"), new Seen("live:a")]
  await pass(100)
  const three = new Seen("live:a")
  expect(three.changes).toEqual([])
  await pass(0)
  expect(three.last).toMatchObject({ kind: "snapshot", rows: gateway.topic("live:a").rows })
  expect(gateway.joins).toBe(1)
  two.live.stop()
  gateway.change("live:a", next)
  await pass(100)
  expect(one.last?.rows).toEqual(gateway.topic("live:a").rows)
  expect(two.last?.result?.version).not.toBe(one.last?.result?.version)
  expect([one, two, three].map(({ live }) => live.status.state)).toEqual(["live", "closed", "live"])
  one.live.stop()
  one.live.stop()
  three.live.stop()
  await pass(100)
  expect(gateway.open[0]?.joined.size).toBe(0)
  const four = new Seen("live:a")
  await pass(100)
  expect(four.last?.rows).toEqual(gateway.topic("live:a").rows)
})

test("a watch whose callback throws harms no other watch", async () => {
  open()
  watch(socket, "live:a", {}, () => {
    throw new Error("a mistake of the caller's")
  })
  const other = new Seen("live:a")
  await expect(pass(100)).rejects.toThrow("mistake")
  await pass(100)
  expect(other.last?.kind).toBe("snapshot")
})

test("a watch without deltas shares the channel of one with deltas", async () => {
  open()
  const [one, two] = [new Seen("live:a"), new Seen("live:a", { deltas: false })]
  await pass(100)
  for (let round = 0; round < 20; round += 1) gateway.change("live:a", random(round))
  await pass(100)
  expect(one.changes.some(({ kind }) => kind === "delta")).toBe(true)
  expect(two.changes.every(({ kind, delta }) => kind !== "delta" && delta === null)).toBe(true)
  expect(two.last?.rows).toEqual(one.last?.rows)
})

test("a row that did not change stays the same object, through deltas and snapshots", async () => {
  open()
  gateway.topic("live:a").rows = [{ id: 1, j: { deep: [1, null] } }, { id: 2, n: 0 }]
  const seen = new Seen("live:a")
  await pass(100)
  const first = seen.last!.rows
  gateway.topic("live:a").rows = [{ id: 2, n: 1 }, { id: 1, j: { deep: [1, null] } }]
  gateway.topic("live:a").version += 7
  gateway.open[0]!.lose(1006)
  await pass(1000)
  expect(seen.last!.rows[1]).toBe(first[0])
  expect(seen.last!.rows[0]).not.toBe(first[1])
})

test("a watch says its state", async () => {
  gateway.refusing = true
  open()
  const seen = new Seen("live:a")
  expect(seen.live.status.state).toBe("connecting")
  await pass(1000)
  gateway.refusing = false
  await pass(10_000)
  socket.disconnect()
  await pass(10_000)
  socket.connect()
  await pass(1000)
  expect(seen.states).toEqual(["stale", "connecting", "closed", "live"])
  expect(seen.live.status.state).toBe("live")
})

test("the browser's events say at once that the connection is gone, and that it may be back", async () => {
  open()
  const seen = new Seen("live:a")
  await pass(6000)
  gateway.silent = true
  say("offline")
  expect(seen.last?.status).toMatchObject({ state: "stale", reason: "offline" })
  await pass(60_000)
  gateway.silent = false
  expect(gateway.opened).toBeLessThan(10)
  say("online")
  await pass(20_000)
  expect(seen.live.status.state).toBe("live")
})

test("a connection that died while the machine slept is replaced within seconds", async () => {
  open()
  const seen = new Seen("live:a")
  await pass(1000)
  gateway.open[0]!.frozen = true
  vi.setSystemTime(Date.now() + 3_600_000)
  await pass(9000)
  expect(gateway.opened).toBe(2)
  expect(seen.live.status.state).toBe("live")
})

test("shorter heartbeats notice a dead connection sooner", async () => {
  open(2000)
  const seen = new Seen("live:a")
  await pass(100)
  gateway.open[0]!.frozen = true
  await pass(4000)
  expect(seen.states).toContain("stale")
  await pass(5000)
  expect(seen.live.status.state).toBe("live")
})

test("a topic that the gateway closes again and again is joined ever more rarely", async () => {
  open()
  const seen = new Seen("live:a")
  for (let second = 0; second < 600; second += 1) {
    gateway.drop("live:a", "phx_close")
    await pass(1000)
  }
  expect(gateway.joins).toBeLessThan(40)
  await pass(60_000)
  expect(seen.live.status.state).toBe("live")
})

test("a connection that is closed as soon as it opens is opened ever more rarely", async () => {
  open()
  new Seen("live:a")
  for (let round = 0; round < 6000; round += 1) {
    gateway.open.forEach((each) => each.lose(1001))
    await pass(100)
  }
  expect(gateway.opened).toBeLessThan(260)
})

test("a message that the gateway blames on the client ends its watches with one error", async () => {
  open()
  const seen = new Seen("live:a")
  await pass(100)
  gateway.open[0]!.lose(1009, "a frame of more than 65536 bytes")
  await pass(60_000)
  expect(gateway.opened).toBe(1)
  expect(seen.states).toEqual(["stale", "failed"])
  expect(seen.last?.status.reason).toMatch(/65536 bytes/)
})

test("the membership of a topic is that of the last watch to have one", async () => {
  open()
  new Seen("live:a")
  await pass(100)
  const member = new Seen("live:a", { presence: { key: "alice" } })
  await pass(100)
  expect(gateway.joins).toBe(2)
  member.live.setMeta({ name: "Alice" })
  await pass(100)
  expect(gateway.joins).toBe(2)
  member.live.stop()
  await pass(100)
  expect(gateway.joins).toBe(3)
})

test("a socket that fell back to long polling while the gateway was away returns to its WebSocket", async () => {
  const asked = vi.fn(() => Promise.reject(new Error("no gateway")))
  vi.stubGlobal("fetch", asked)
  socket = connect("ws://gateway/socket", { socket: { transport: gateway.transport, longPollFallbackMs: 2500 } })
  const seen = new Seen("live:a")
  await pass(5000)
  gateway.refusing = true
  gateway.open.forEach((each) => each.lose(1006))
  await pass(30_000)
  expect(asked).toHaveBeenCalled()
  expect(seen.live.status.state).toBe("stale")
  gateway.refusing = false
  gateway.change("live:a", random(1))
  await pass(CALM_MS)
  expect(seen.live.status.state).toBe("live")
  expect(seen.last?.rows).toEqual(gateway.topic("live:a").rows)
})
