import { defineConfig } from "vite"

/** The gateway behind `npm run dev`, which serves the page and reloads it when a source file changes. */
const gateway = process.env["POLLCAST_URL"] ?? "http://127.0.0.1:4000"

export default defineConfig({
  base: "./", // a proxy may publish the page below any path
  build: {
    outDir: "../gateway/static", // served by gateway/page.py, and part of the wheel
    emptyOutDir: true,
    target: "es2022",
    modulePreload: { polyfill: false }, // the page's content security policy forbids inline scripts
    assetsInlineLimit: 0, // and data: addresses
  },
  server: {
    proxy: {
      "/api": gateway,
      "/live": gateway,
      "/socket": { target: gateway, ws: true },
    },
  },
})
