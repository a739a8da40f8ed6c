import { topic } from "@pollcast/client"
import { PollcastProvider, useLive } from "@pollcast/client/react"
import { memo, StrictMode, useState } from "react"
import { createRoot } from "react-dom/client"
import { socket } from "./socket.js"

// A row that did not change is the same object, so that `memo` leaves its element alone.
const Teller = memo(function Teller({ row }) {
  window.rendered = (window.rendered ?? 0) + 1
  return (
    <li>
      {row.teller}: {row.balance}
    </li>
  )
})

function Tellers({ limit }) {
  const { rows, status } = useLive(topic("richest_tellers", { limit }))
  return (
    <>
      <p className="status">{status.reason ?? status.state}</p>
      <ol>
        {rows.map((row) => (
          <Teller key={row.teller} row={row} />
        ))}
      </ol>
    </>
  )
}

// Another component with the same topic shares its subscription.
function Total({ limit }) {
  const { rows, age } = useLive(topic("richest_tellers", { limit }), { tick: 1000 })
  const total = rows.reduce((sum, row) => sum + row.balance, 0)
  return (
    <p className="total">
      {total} in all, {age === null ? "not known yet" : `changed ${Math.round(age / 1000)} s ago`}
    </p>
  )
}

function App() {
  const [limit, setLimit] = useState(5)
  const [shown, setShown] = useState(true)
  return (
    <>
      <button onClick={() => setLimit(limit === 5 ? 3 : 5)}>top {limit}</button>
      <button onClick={() => setShown(!shown)}>total</button>
      <Tellers limit={limit} />
      {shown && <Total limit={limit} />}
    </>
  )
}

createRoot(document.querySelector("#app")).render(
  <StrictMode>
    <PollcastProvider socket={socket}>
      <App />
    </PollcastProvider>
  </StrictMode>,
)
