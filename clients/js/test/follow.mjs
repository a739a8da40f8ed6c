// Watches a topic on a real gateway and prints every change as a line of JSON;
// tests/cluster/clients/test_client_js.py runs it.
//   node follow.mjs http://HOST:PORT TOPIC [PRESENCE KEY | --tokens | --fallback]
// TOPIC is a spelling, or the JSON of the arguments of `topic`: ["orders", {"regions": ["north", "south"]}].
// With --tokens it prints a request for each token, {"kind":"token","request":N,"expiring":…}, and reads the answer from
// stdin, {"request":N,"token":"…"}. With --fallback it falls back to long polling.
import readline from "node:readline"
import WebSocket from "ws"
import { connect, topic, watch } from "../dist/index.js"

const [url, given, argument] = process.argv.slice(2)
const watched = given.startsWith("[") ? topic(...JSON.parse(given)) : given
const print = (message) => process.stdout.write(`${JSON.stringify(message)}\n`)
const requests = []
const requestToken = (expiring) =>
  new Promise((answer) => {
    print({ kind: "token", request: requests.length, expiring })
    requests.push(answer)
  })
const tokens = argument === "--tokens"
const fallback = argument === "--fallback"
const socket = connect(`${url.replace(/^http/, "ws")}/socket`, {
  ...(tokens ? { token: requestToken } : {}),
  onTokenRefused: (token, refusal) => print({ kind: "token refused", token, ...refusal }),
  socket: { transport: WebSocket, ...(fallback ? { longPollFallbackMs: 2500 } : {}) },
})
socket.onClose((event) => print({ kind: "closed", code: event.code }))
const options = {
  onRefused: (refusal) => print({ kind: "refused", ...refusal }),
  ...(argument && !tokens && !fallback ? { presence: { key: argument } } : {}),
}
watch(socket, watched, options, ({ kind, rows, status, result, presence }) =>
  print({ kind, rows, status, version: result?.version ?? null, presence: presence.map((each) => each.key) }),
)
readline
  .createInterface({ input: process.stdin })
  .on("line", (line) => {
    const { request, token } = JSON.parse(line)
    requests[request](token)
  })
  .on("close", () => process.exit(0))
