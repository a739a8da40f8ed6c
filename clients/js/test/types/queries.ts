// What the compiler knows of the queries in generated.ts: this file is compiled and not run.
import { topic, watch, type LiveSocket } from "@pollcast/client"
import { createCollection } from "@tanstack/db"
import { useLive } from "../../src/react.js"
import { live } from "../../src/svelte.js"
import { pollcastCollectionOptions } from "../../src/tanstack-db.js"
import { useLive as useLiveInVue } from "../../src/vue.js"
import type { DeclaredOrders } from "./generated.js"

declare const socket: LiveSocket
declare const name: string

const orders = topic("declared_orders", { region: "north", limit: 5n })
const text: string = orders
topic("declared_revenue")
topic("declared_revenue", {})
const others: string = topic(name, { anything: [1, 2] })
topic("not_declared", { anything: true })
// @ts-expect-error A parameter that is required.
topic("declared_orders")
// @ts-expect-error A value that the enum does not have.
topic("declared_orders", { region: "east" })
// @ts-expect-error A parameter that the query does not have.
topic("declared_orders", { region: "north", regoin: "x" })
// @ts-expect-error A query without parameters.
topic("declared_revenue", { limit: 1 })

watch(socket, orders, {}, ({ rows }) => {
  const [row] = rows
  const amount: number | null | undefined = row?.amount
  // @ts-expect-error A column that the query does not have.
  void [amount, row?.nothing]
})
watch<"declared_orders">(socket, orders, {}, ({ rows }) => rows.map(({ region }) => region.trim()))
watch<"declared_orders">(socket, "live:declared_orders?region=north", {}, ({ rows }) => rows.map(({ region }) => region.trim()))
// @ts-expect-error A topic of another query.
watch<"declared_orders">(socket, "live:declared_revenue", {}, () => undefined)
// @ts-expect-error A query that is not declared.
watch<"nothing">(socket, "live:nothing", {}, () => undefined)
// Without declarations rows are JSON.
watch(socket, "live:declared_orders?region=north", {}, ({ rows }) => JSON.stringify(rows[0]?.["whatever"]))
watch(socket, others, {}, ({ rows }) => JSON.stringify(rows[0]?.["whatever"]))

const ids: (number | bigint)[] = useLive(orders).rows.map(({ id }) => id)
const own: DeclaredOrders[] = [...useLive<DeclaredOrders>("live:declared_orders").rows]
const chosen: readonly DeclaredOrders[] = useLive(text ? orders : null).rows
const inVue: readonly DeclaredOrders[] = useLiveInVue(() => orders).rows.value
live(socket, orders).subscribe(({ rows }) => rows[0]?.region.trim())
void [ids, own, chosen, inVue]

const collection = createCollection(pollcastCollectionOptions({ socket, topic: orders, getKey: ({ id }) => String(id) }))
const regions: string[] = collection.toArray.map(({ region }) => region)
// @ts-expect-error A column that the query does not have.
collection.toArray.map(({ nothing }) => nothing)
const free = createCollection(pollcastCollectionOptions({ socket, topic: "live:declared_orders?region=north" }))
JSON.stringify(free.toArray[0]?.["whatever"])
const mine = createCollection(pollcastCollectionOptions<DeclaredOrders>({ socket, topic: text }))
void [regions, mine.toArray[0]?.amount]
