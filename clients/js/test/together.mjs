// Watches a topic on a real gateway twice on one socket, and prints each change as a line of JSON with the number of the
// watch; tests/cluster/clients/test_client_losses.py runs it. A line on stdin stops the second watch.
//   node together.mjs http://HOST:PORT TOPIC
import readline from "node:readline"
import WebSocket from "ws"
import { connect, watch } from "../dist/index.js"

const [url, topic] = process.argv.slice(2)
const socket = connect(`${url.replace(/^http/, "ws")}/socket`, { heartbeatMs: 1000, socket: { transport: WebSocket } })
const watches = [0, 1].map((number) =>
  watch(socket, topic, {}, ({ rows, status }) =>
    process.stdout.write(`${JSON.stringify({ number, rows, state: status.state })}\n`),
  ),
)
readline
  .createInterface({ input: process.stdin })
  .on("line", () => watches[1].stop())
  .on("close", () => process.exit(0))
