/** The texts of the code that watches a topic. Pure: no I/O. */

export const LANGUAGES = ["curl", "JavaScript", "React", "Python"] as const
export type Language = (typeof LANGUAGES)[number]

/**
 * Returns code that watches `topic` (`live:orders?region=north`) at the gateway whose page is at `base`. With `secured`
 * it sends a token, which it reads from where a program of that kind has it.
 */
export function snippet(language: Language, topic: string, base: string, secured: boolean): string {
  const literal = JSON.stringify(topic)
  const socket = JSON.stringify(`${base.replace(/^http/, "ws")}socket`)
  switch (language) {
    case "curl": {
      const token = secured ? ` -H "Authorization: Bearer $TOKEN"` : ""
      return [
        `# Each change as a server-sent event; without the header Accept, the current result as JSON.`,
        `curl -N${token} -H 'Accept: text/event-stream' '${base}live/${topic.replace(/^live:/, "")}'`,
      ].join("\n")
    }
    case "JavaScript":
      return `// npm install phoenix @pollcast/client
import { connect, watch } from "@pollcast/client"

const socket = connect(${socket}${secured ? ", { token: async () => (await fetch(\"/my/token\")).text() }" : ""})
const live = watch(socket, ${literal}, {}, ({ rows, status }) => {
  console.log(status.state, rows)
})
// live.stop() ends it.`
    case "React":
      return `// npm install phoenix @pollcast/client
import { connect } from "@pollcast/client"
import { PollcastProvider, useLive } from "@pollcast/client/react"

const socket = connect(${socket}${secured ? ", { token: async () => (await fetch(\"/my/token\")).text() }" : ""})

function Result() {
  const { rows, status } = useLive(${literal})
  return <pre title={status.state}>{rows.map((row) => Object.values(row).join(" ")).join("\\n")}</pre>
}

export function App() {
  return <PollcastProvider socket={socket}><Result /></PollcastProvider>
}`
    case "Python":
      return `# pip install pollcast-client
import asyncio
${secured ? "import os\n" : ""}from pollcast_client import watch


async def main() -> None:
    async for change in watch(${literal}, url=${JSON.stringify(base.replace(/\/$/, ""))}${secured ? ', token=os.environ["TOKEN"]' : ""}):
        print(change.status.state, change.rows, flush=True)


asyncio.run(main())`
  }
}
