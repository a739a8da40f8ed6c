import { readFileSync } from "node:fs"
import { createRequire } from "node:module"
import { defineConfig, type Plugin } from "vite"

/** The gateway behind `npm run dev`, which serves the page and reloads it when a source file changes. */
const gateway = process.env["POLLCAST_URL"] ?? "http://127.0.0.1:4000"

/** Adds the licences of Swagger UI, which the page api/docs contains. */
function licences(): Plugin {
  const find = createRequire(import.meta.url).resolve
  const files = ["LICENSE", "NOTICE", "swagger-ui-es-bundle.js.LICENSE.txt"]
  return {
    name: "licences",
    generateBundle() {
      const source = files.map((file) => readFileSync(find(`swagger-ui-dist/${file}`), "utf8")).join("\n")
      this.emitFile({ type: "asset", fileName: "api/swagger-ui.LICENSE.txt", source })
    },
  }
}

export default defineConfig({
  plugins: [licences()],
  base: "./", // a proxy may publish the page below any path
  build: {
    outDir: "../gateway/static", // served by gateway/page.py, and part of the wheel
    emptyOutDir: true,
    target: "es2022",
    rollupOptions: { input: { index: "index.html", docs: "api/docs.html" } },
    chunkSizeWarningLimit: 2000, // kB: Swagger UI, on its own page
    modulePreload: { polyfill: false }, // the page's content security policy forbids inline scripts
    assetsInlineLimit: 0, // and data: addresses
  },
  server: {
    proxy: {
      "/api": gateway,
      "/live": gateway,
      "/openapi.json": gateway,
      "/socket": { target: gateway, ws: true },
    },
  },
})
