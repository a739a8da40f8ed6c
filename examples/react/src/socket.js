import { connect } from "@pollcast/client"

/** The socket that the whole application shares. `?gateway=host:port` in the page's address names another gateway. */
const gateway = new URLSearchParams(location.search).get("gateway") ?? "127.0.0.1:4000"
export const socket = connect(`ws://${gateway}/socket`)
