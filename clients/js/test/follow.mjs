// Watches topics on a real gateway and prints every change as a line of JSON: driven by tests/cluster/test_client_js.py.
// node follow.mjs http://HOST:PORT TOPIC [PRESENCE KEY | --tokens]
// With --tokens it asks for each token ({"kind":"token","ask":N,"expiring":…}), and is told on stdin ({"ask":N,"token":"…"}).
import readline from "node:readline"
import WebSocket from "ws"
import { connect, watch } from "../dist/index.js"

const [url, topic, argument] = process.argv.slice(2)
const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`)
const asks = []
const ask = (expiring) =>
  new Promise((answer) => {
    say({ kind: "token", ask: asks.length, expiring })
    asks.push(answer)
  })
const tokens = argument === "--tokens"
const socket = connect(`${url.replace(/^http/, "ws")}/socket`, {
  ...(tokens ? { token: ask } : {}),
  onTokenRefused: (token, refusal) => say({ kind: "token refused", token, ...refusal }),
  socket: { transport: WebSocket },
})
socket.onClose((event) => say({ kind: "closed", code: event.code }))
const options = {
  onRefused: (refusal) => say({ kind: "refused", ...refusal }),
  ...(argument && !tokens ? { presence: { key: argument } } : {}),
}
watch(socket, topic, options, ({ kind, rows, status, result, presence }) =>
  say({ kind, rows, status, version: result?.version ?? null, presence: presence.map((each) => each.key) }),
)
readline
  .createInterface({ input: process.stdin })
  .on("line", (line) => {
    const { ask: number, token } = JSON.parse(line)
    asks[number](token)
  })
  .on("close", () => process.exit(0))
