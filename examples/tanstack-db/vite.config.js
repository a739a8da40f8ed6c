import { defineConfig } from "vite"

// The client may be installed as a link: there is still one React.
export default defineConfig({ resolve: { dedupe: ["react", "react-dom"] } })
