// Watches topics on a real gateway and prints every change as a line of JSON; tests/cluster/test_json_values.py runs it.
//   node values.mjs http://HOST:PORT OPTIONS TOPIC…
// OPTIONS are the options of `connect` in JSON; `plain` uses a Socket of phoenix.js instead. A value that JSON cannot
// hold is printed as an object: {"$bigint":"…"} or {"$number":"…"}.
import { Socket } from "phoenix"
import WebSocket from "ws"
import { connect, watch } from "../dist/index.js"

const [url, options, ...topics] = process.argv.slice(2)
const tagged = (_, value) => {
  if (typeof value === "bigint") return { $bigint: String(value) }
  if (typeof value === "number" && (Object.is(value, -0) || !Number.isFinite(value)))
    return { $number: Object.is(value, -0) ? "-0" : String(value) }
  return value
}
const print = (message) => process.stdout.write(`${JSON.stringify(message, tagged)}\n`)
const address = `${url.replace(/^http/, "ws")}/socket`
let socket
if (options === "plain") {
  socket = new Socket(address, { transport: WebSocket })
  socket.connect()
} else {
  socket = connect(address, { ...JSON.parse(options), socket: { transport: WebSocket } })
}
for (const topic of topics) {
  watch(socket, topic, {}, ({ kind, rows, status, result, delta }) =>
    print({ topic, kind, rows, status, keys: result?.keys ?? [], delta }),
  )
}
process.stdin.on("end", () => process.exit(0)).resume()
