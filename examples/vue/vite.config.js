import vue from "@vitejs/plugin-vue"
import { defineConfig } from "vite"

// The client may be installed as a link: there is still one Vue.
export default defineConfig({ plugins: [vue()], resolve: { dedupe: ["vue"] } })
