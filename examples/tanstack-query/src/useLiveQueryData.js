import { liveStore } from "@pollcast/client"
import { useQuery, useQueryClient } from "@tanstack/react-query"
import { useEffect } from "react"

/** Returns the query of TanStack Query whose data is the newest state of a topic: `{ rows, status }`. */
export function useLiveQueryData(socket, topic) {
  const client = useQueryClient()
  useEffect(() => {
    const store = liveStore(socket, topic)
    const fill = () => {
      const { rows, status, result } = store.get()
      if (result) client.setQueryData(["pollcast", topic], { rows, status })
    }
    fill()
    return store.subscribe(fill)
  }, [client, socket, topic])
  // The store fills the cache, so nothing is fetched, and nothing is ever out of date.
  return useQuery({ queryKey: ["pollcast", topic], enabled: false, staleTime: Infinity, queryFn: () => null })
}
