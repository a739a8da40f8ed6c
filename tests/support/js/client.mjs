// The real phoenix.js, driven by tests: it reads commands from stdin and reports events on stdout, one line of JSON each.
// {"op":"connect","socket":"a","url":"ws://…/socket","authToken":"…","params":{},"version":"1.8"}
//   {…,"stock":true} uses phoenix.js's own times, as Phoenix's generators leave them, with "longPollFallbackMs":2500.
// {"op":"join","socket":"a","topic":"live:…","params":{}}   {"op":"leave",…}   {"op":"push",…,"event":"…","payload":{}}
// {"op":"disconnect","socket":"a"}
import "./browser.mjs"
import readline from "node:readline"
import WebSocket from "ws"
import * as phoenix18 from "phoenix"
import * as phoenix17 from "phoenix17"

const sockets = new Map()
const report = message => process.stdout.write(JSON.stringify(message) + "\n")

const TIMES = {heartbeatIntervalMs: 5000, reconnectAfterMs: () => 100, rejoinAfterMs: () => 300}

function connect({socket, url, authToken, params, version, stock, longPollFallbackMs}) {
  const {Socket} = version === "1.7" ? phoenix17 : phoenix18
  const connection = new Socket(url, {
    transport: WebSocket,
    params: params || {},
    ...(stock ? {} : TIMES),
    ...(longPollFallbackMs ? {longPollFallbackMs} : {}),
    ...(authToken ? {authToken} : {}),
  })
  connection.onOpen(() => report({socket, event: "open", polls: connection.transport !== WebSocket}))
  connection.onClose(e => report({socket, event: "close", code: e && e.code}))
  connection.onError(e => report({socket, event: "error", message: String((e && e.message) || e)}))
  connection.connect()
  sockets.set(socket, {connection, channels: new Map(), Presence: (version === "1.7" ? phoenix17 : phoenix18).Presence})
}

function join({socket, topic, params, name}) {
  const {connection, channels, Presence} = sockets.get(socket)
  // phoenix.js calls a function for the params of each join: `since` is then the last version that was received.
  const state = {version: null}
  const resume = params && params.resume
  const channel = connection.channel(topic, resume ? () => ({since: state.version}) : (params || {}))
  channels.set(name || topic, channel)
  channel.onMessage = (event, payload) => {
    if (event === "snapshot" || event === "delta") state.version = payload.version
    if (!event.startsWith("chan_reply_")) report({socket, topic, name, event, payload})
    return payload
  }
  const presence = new Presence(channel)
  presence.onSync(() => report({socket, topic, name, event: "presence_sync",
    list: presence.list((key, {metas}) => ({key, metas}))}))
  channel.join()
    .receive("ok", response => report({socket, topic, name, reply: "ok", response}))
    .receive("error", response => report({socket, topic, name, reply: "error", response}))
    .receive("timeout", () => report({socket, topic, name, reply: "timeout"}))
}

function push({socket, topic, name, event, payload, leave}) {
  const channel = sockets.get(socket).channels.get(name || topic)
  const sent = leave ? channel.leave() : channel.push(event, payload || {})
  const to = leave ? "phx_leave" : event
  sent.receive("ok", response => report({socket, topic, name, to, reply: "ok", response}))
    .receive("error", response => report({socket, topic, name, to, reply: "error", response}))
    .receive("timeout", () => report({socket, topic, name, to, reply: "timeout"}))
}

readline.createInterface({input: process.stdin}).on("line", line => {
  const command = JSON.parse(line)
  if (command.op === "connect") connect(command)
  else if (command.op === "join") join(command)
  else if (command.op === "leave") push({...command, leave: true})
  else if (command.op === "push") push(command)
  else if (command.op === "disconnect") sockets.get(command.socket).connection.disconnect()
}).on("close", () => process.exit(0))
