import { pollcast } from "@pollcast/client/vue"
import { createApp } from "vue"
import App from "./App.vue"
import { socket } from "./socket.js"

createApp(App).use(pollcast(socket)).mount("#app")
