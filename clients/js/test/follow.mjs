// Watches topics on a real gateway and prints every change as a line of JSON: driven by tests/test_clients.py.
// node follow.mjs http://HOST:PORT TOPIC [PRESENCE KEY]
import WebSocket from "ws"
import { connect, watch } from "../dist/index.js"

const [url, topic, key] = process.argv.slice(2)
const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`)
const socket = connect(`${url.replace(/^http/, "ws")}/socket`, { socket: { transport: WebSocket } })
const options = { onRefused: (refusal) => say({ kind: "refused", ...refusal }), ...(key ? { presence: { key } } : {}) }
watch(socket, topic, options, ({ kind, rows, status, result, presence }) =>
  say({ kind, rows, status, version: result?.version ?? null, presence: presence.map((each) => each.key) }),
)
process.stdin.on("end", () => process.exit(0)).resume()
