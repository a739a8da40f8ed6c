import { defineConfig } from "vite"

/** `npm run dev` serves the page with reloading, in front of a gateway (POLLCAST_URL). */
const gateway = process.env["POLLCAST_URL"] ?? "http://127.0.0.1:4000"

export default defineConfig({
  build: {
    outDir: "../gateway/static", // served by gateway/page.py, and part of the wheel
    emptyOutDir: true,
    target: "es2022",
    modulePreload: { polyfill: false }, // it would be an inline script, which the page's security policy forbids
    assetsInlineLimit: 0, // nor are there data: addresses
  },
  server: {
    proxy: {
      "/api": gateway,
      "/live": gateway,
      "/socket": { target: gateway, ws: true },
    },
  },
})
