import { topic } from "@pollcast/client"
import { pollcastCollectionOptions } from "@pollcast/client/tanstack-db"
import { BasicIndex, createCollection, gt, useLiveQuery } from "@tanstack/react-db"
import { useState } from "react"
import { createRoot } from "react-dom/client"
import { socket } from "./socket.js"

const tellers = createCollection({
  ...pollcastCollectionOptions({ socket, topic: topic("richest_tellers", { limit: 40 }) }),
  autoIndex: "eager",
  defaultIndexType: BasicIndex,
})

function App() {
  const [least, setLeast] = useState(0)
  const { data, status } = useLiveQuery({
    queryKey: ["tellers", least], // without it, the query is built anew for each render, to see whether it has changed
    query: (query) =>
      query
        .from({ row: tellers })
        .where(({ row }) => gt(row.balance, least))
        .orderBy(({ row }) => row.balance, "desc")
        .limit(5),
  })
  return (
    <>
      <button onClick={() => setLeast(least ? 0 : 30)}>more than {least}</button>
      <p className="status">{status}</p>
      <ol>
        {data.map((row) => (
          <li key={row.teller}>
            {row.teller}: {row.balance}
          </li>
        ))}
      </ol>
      <p className="total">{data.reduce((sum, row) => sum + row.balance, 0)} in all</p>
    </>
  )
}

createRoot(document.querySelector("#app")).render(<App />)
