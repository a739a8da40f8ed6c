import { topic } from "@pollcast/client"
import { QueryClient, QueryClientProvider } from "@tanstack/react-query"
import { StrictMode, useState } from "react"
import { createRoot } from "react-dom/client"
import { socket } from "./socket.js"
import { useLiveQueryData } from "./useLiveQueryData.js"

function App() {
  const [limit, setLimit] = useState(5)
  const { data } = useLiveQueryData(socket, topic("richest_tellers", { limit }))
  return (
    <>
      <button onClick={() => setLimit(limit === 5 ? 3 : 5)}>top {limit}</button>
      <p className="status">{data?.status.state ?? "connecting"}</p>
      <ol>
        {data?.rows.map((row) => (
          <li key={row.teller}>
            {row.teller}: {row.balance}
          </li>
        ))}
      </ol>
      <p className="total">{data?.rows.reduce((sum, row) => sum + row.balance, 0)} in all</p>
    </>
  )
}

createRoot(document.querySelector("#app")).render(
  <StrictMode>
    <QueryClientProvider client={new QueryClient()}>
      <App />
    </QueryClientProvider>
  </StrictMode>,
)
