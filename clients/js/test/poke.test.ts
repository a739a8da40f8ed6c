import { createServer, type Server } from "node:http"
import { once } from "node:events"
import type { AddressInfo } from "node:net"
import { afterEach, beforeEach, expect, test } from "vitest"
import { LiveSocket, PokeRefused, topic } from "../src/index.js"
import { pokeUrl } from "../src/poke.js"

let server: Server
let asked: string[] = []
let answer: [number, string] = [202, '{"topics":2}']

beforeEach(async () => {
  asked = []
  server = createServer((request, response) => {
    asked.push(`${request.method} ${request.url} ${request.headers.authorization ?? ""}`.trim())
    response.writeHead(answer[0], { "content-type": "application/json" }).end(answer[1])
  }).listen(0, "127.0.0.1")
  await once(server, "listening")
})

afterEach(() => void server.close())

const url = (): string => `ws://127.0.0.1:${(server.address() as AddressInfo).port}/below/socket`

/** A transport that never connects: a poke needs no connection. */
class Nothing {}

test("a poke goes to the gateway of the socket, with its token, and returns the number of topics", async () => {
  answer = [202, '{"topics":2}']
  const options = { socket: { transport: Nothing } }
  expect(await new LiveSocket(url(), options).poke(topic("orders", { region: "a b" }))).toBe(2)
  expect(await new LiveSocket(url(), { ...options, token: async () => "t0k" }).poke("orders")).toBe(2)
  expect(asked).toEqual(["POST /below/poke/orders?region=a+b", "POST /below/poke/orders Bearer t0k"])
})

test("a refused poke has the gateway's reason", async () => {
  answer = [403, '{"reason":"forbidden","detail":"no role"}']
  const refused = new LiveSocket(url(), { socket: { transport: Nothing } }).poke("live:orders")
  await expect(refused).rejects.toEqual(new PokeRefused("forbidden", "no role"))
  answer = [502, "<html>"]
  const broken = new LiveSocket(url(), { socket: { transport: Nothing } }).poke("live:orders")
  await expect(broken).rejects.toThrow("the gateway answered 502")
})

test.each([
  ["wss://host/socket/websocket?vsn=2.0.0", "live:orders", "https://host/poke/orders"],
  ["ws://host:1/x/socket/websocket", "orders?a=1%3F&b=?", "http://host:1/x/poke/orders?a=1%3F&b=?"],
  ["ws://host/socket/websocket", "../admin", "http://host/poke/..%2Fadmin"],
])("the address of a poke is beside that of the socket", (socket, name, expected) => {
  expect(pokeUrl(socket, name)).toBe(expected)
})
