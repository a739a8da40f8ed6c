import type { Server } from "node:http"
import { once } from "node:events"
import type { AddressInfo } from "node:net"
import { afterEach, beforeEach, expect, test, vi } from "vitest"
// @ts-expect-error ws has no types of its own
import WebSocket, { WebSocketServer } from "ws"
import { connect, watch, type LiveSocket, type Status } from "../src/index.js"

// A gateway that breaks the protocol, as no real one does: it answers each join with the same events.

const AT = "2026-01-01T00:00:00Z"
const snapshot = (rows: string): string => `{"version":"1-1","polled_at":"${AT}","key":["id"],"rows":${rows}}`
const delta = (base: string): string =>
  `{"version":"1-2","base":"${base}","polled_at":"${AT}","deletes":[],"upserts":[{"at":0,"row":{"id":7}}]}`

/** The part of a WebSocket of the package ws that is used here. */
interface Client {
  on(event: "message", take: (text: unknown) => void): void
  send(text: string): void
}

let server: Server
let socket: LiveSocket
let joins = 0
let events: [string, string][] = []

beforeEach(async () => {
  joins = 0
  vi.spyOn(console, "error").mockImplementation(() => undefined)
  server = new WebSocketServer({ port: 0, host: "127.0.0.1" }) as Server
  server.on("connection", (client: Client) =>
    client.on("message", (text) => {
      const [joinRef, ref, topic, event] = JSON.parse(String(text)) as string[]
      client.send(JSON.stringify([joinRef, ref, topic, "phx_reply", { status: "ok", response: {} }]))
      if (event !== "phx_join") return
      joins += 1
      for (const [name, payload] of events) client.send(`[null,null,"${topic}","${name}",${payload}]`)
    }),
  )
  await once(server, "listening")
  const { port } = server.address() as AddressInfo
  socket = connect(`ws://127.0.0.1:${port}/socket`, { socket: { transport: WebSocket } })
})

afterEach(() => {
  socket.disconnect()
  server.close()
  vi.restoreAllMocks()
})

/** Watches until the status is `failed`, and two seconds longer; returns the status and the number of rows shown. */
async function failure(): Promise<{ status: Status; shown: number }> {
  const found = await new Promise<{ status: Status; shown: number }>((resolve) => {
    watch(socket, "live:t", {}, ({ status, rows }) => {
      if (status.state === "failed") resolve({ status, shown: rows.length })
    })
  })
  const before = joins
  await new Promise((resolve) => setTimeout(resolve, 2000))
  expect(joins).toBe(before)
  return found
}

test("a snapshot that does not fit ends the watch at once", async () => {
  events = [["snapshot", snapshot('[{"id":1},{"id":1.0}]')]]
  expect((await failure()).status.reason).toMatch(/twice/)
  expect(joins).toBe(1)
})

test("deltas that do not fit end the watch after three joins", async () => {
  events = [["snapshot", snapshot('[{"id":1}]')], ["delta", delta("1-0")]]
  expect(await failure()).toMatchObject({ status: { reason: "a delta on 1-0, but 1-1 is known" }, shown: 1 })
  expect(joins).toBe(3)
}, 15_000)

test("a key that is nested too deeply ends the watch", async () => {
  events = [["snapshot", snapshot(`[{"id":${"[".repeat(5000)}${"]".repeat(5000)}}]`)]]
  expect((await failure()).status.reason).toMatch(/nested/)
  expect(joins).toBe(1)
})

test("a key with a large integer is followed", async () => {
  events = [["snapshot", snapshot('[{"id":9007199254740993},{"id":9007199254740992}]')], ["delta", delta("1-1")]]
  const rows = await new Promise((resolve) => {
    watch(socket, "live:t", {}, (change) => change.kind === "delta" && resolve(change.rows))
  })
  expect(rows).toEqual([{ id: 7 }, { id: 9007199254740993n }, { id: 9007199254740992n }])
})
