import { createCollection } from "@tanstack/db"
import { effectScope, nextTick, ref } from "vue"
import { afterEach, beforeEach, expect, test, vi } from "vitest"
import { connect, type LiveSocket, type Row } from "../src/index.js"
import { liveStore } from "../src/store.js"
import { live } from "../src/svelte.js"
import { pollcastCollectionOptions } from "../src/tanstack-db.js"
import { useLive } from "../src/vue.js"
import { ModelGateway, random } from "./model.js"

let gateway: ModelGateway
let socket: LiveSocket

beforeEach(() => {
  vi.useFakeTimers({ now: 1_700_000_000_000 })
  gateway = new ModelGateway()
  gateway.topic("live:a").rows = [{ id: 1, n: 1 }, { id: 2, n: 2 }]
  socket = connect("ws://gateway/socket", { socket: { transport: gateway.transport } })
})

afterEach(() => {
  socket.disconnect()
  vi.useRealTimers()
})

const pass = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms)

test("the state of a store is the same object until something changes", async () => {
  const store = liveStore(socket, "live:a")
  expect(liveStore(socket, "live:a", {})).toBe(store)
  const listener = vi.fn()
  const unsubscribe = store.subscribe(listener)
  await pass(100)
  const state = store.get()
  expect(state).toMatchObject({ rows: gateway.topic("live:a").rows, status: { state: "live" } })
  expect(listener).toHaveBeenCalledTimes(1)
  await pass(10_000)
  expect(store.get()).toBe(state)
  unsubscribe()
})

test("a store whose subscribers come and go at once stays joined, and leaves a second after the last has gone", async () => {
  const store = liveStore(socket, "live:a")
  const listener = (): void => undefined
  store.subscribe(listener)()
  const [one, two] = [store.subscribe(listener), store.subscribe(listener)]
  await pass(1000)
  one()
  one()
  await pass(5000)
  expect(gateway.open[0]?.joined.size).toBe(1)
  two()
  await pass(500)
  const three = store.subscribe(listener)
  await pass(5000)
  expect(gateway.joins).toBe(1)
  three()
  await pass(2000)
  expect(gateway.open[0]?.joined.size).toBe(0)
  expect(store.get().result).toBeNull()
})

test("a svelte store calls its subscriber at once, then after each change and tick", async () => {
  const values: number[] = []
  const ages: (number | null)[] = []
  const unsubscribe = live(socket, "live:a", { tick: 1000 }).subscribe(({ rows, age }) => {
    values.push(rows.length)
    ages.push(age)
  })
  expect(values).toEqual([0])
  await pass(2500)
  expect(values).toEqual([0, 2, 2, 2])
  expect(ages[0]).toBeNull()
  expect(ages[3]).toBeGreaterThanOrEqual(0)
  unsubscribe()
  await pass(5000)
  expect(values).toHaveLength(4)
})

test("a composable follows its topic, and ends with its scope", async () => {
  const topic = ref<string | null>("live:a")
  const scope = effectScope()
  const { rows, status } = scope.run(() => useLive(topic, { socket }))!
  await pass(100)
  expect([rows.value.length, status.value.state]).toEqual([2, "live"])
  topic.value = null
  await nextTick()
  expect(rows.value).toEqual([])
  topic.value = "live:b"
  await pass(2000)
  expect([...gateway.open[0]!.joined.keys()]).toEqual(["live:b"])
  scope.stop()
  await pass(2000)
  expect(gateway.open[0]!.joined.size).toBe(0)
})

test("a collection holds the rows of its topic after any changes and losses", async () => {
  const collection = createCollection(pollcastCollectionOptions({ socket, topic: "live:a" }))
  const subscription = collection.subscribeChanges(() => undefined)
  await pass(100)
  const next = random(3)
  const byId = (rows: readonly Row[]): Row[] => // without the properties that a collection adds
    rows.map(({ id, n }) => ({ id: id!, n: n! })).toSorted((one, other) => Number(one.id) - Number(other.id))
  for (let round = 0; round < 200; round += 1) {
    gateway.change("live:a", next)
    if (next() < 0.1) gateway.open.forEach((each) => each.lose(1012))
    await pass(200)
    if (!gateway.open.length) continue
    await pass(200)
    expect(collection.status).toBe("ready")
    expect(byId(collection.toArray)).toEqual(byId(gateway.topic("live:a").rows))
  }
  await pass(10_000) // more than the longest pause before a connection
  subscription.unsubscribe()
  await collection.cleanup()
  await pass(1000)
  expect(gateway.open[0]!.joined.size).toBe(0)
})

test("a collection of a query without a key needs a function for it", async () => {
  gateway.key = []
  const failed = createCollection(pollcastCollectionOptions({ socket, topic: "live:a" }))
  const error = failed.preload().catch((reason: unknown) => String(reason))
  await pass(100)
  expect(await error).toMatch(/has no key/)
  const keyed = createCollection(pollcastCollectionOptions<{ id: number; n: number }>({ socket, topic: "live:a", getKey: ({ id }) => id }))
  const ready = keyed.preload()
  await pass(100)
  await ready
  expect(keyed.get(2)).toMatchObject({ n: 2 })
})
