// Prints the size of the client in an application, minified and gzipped, in bytes, as JSON: of its own modules (`core`)
// and with phoenix.js, of what an application imports that connects and watches.
import { gzipSync } from "node:zlib"
import { build } from "vite"

const ENTRY = 'export { connect, topic, watch } from "@pollcast/client"'

async function size(external) {
  const { output } = await build({
    configFile: false,
    logLevel: "silent",
    plugins: [{ name: "entry", resolveId: (id) => (id === "entry" ? id : null), load: (id) => (id === "entry" ? ENTRY : null) }],
    resolve: { alias: { "@pollcast/client": new URL("dist/index.js", import.meta.url).pathname } },
    build: { write: false, target: "es2022", rollupOptions: { input: "entry", external, preserveEntrySignatures: "strict" } },
  })
  return gzipSync(output[0].code, { level: 9 }).length
}

console.log(JSON.stringify({ core: await size(["phoenix"]), "with phoenix": await size([]) }))
