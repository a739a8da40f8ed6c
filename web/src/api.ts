/** What the gateway says over HTTP. */

export interface Param {
  name: string
  type: "text" | "int" | "float" | "numeric" | "bool" | "date" | "timestamptz" | "uuid"
  required: boolean
  default: string | number | boolean | null
  enum: (string | number)[] | null
  min: string | number | null
  max: string | number | null
  max_length: number | null
}

export interface Query {
  name: string
  title: string | null
  key: string[]
  interval_ms: number
  presence: boolean
  params: Param[]
}

export interface ClusterNode {
  name: string
  role: "gateway" | "poller" | "coordinator"
  state: "starting" | "ready" | "draining"
  http: string | null
  started_at: string
  version: string
  /** Sockets of a gateway, null for others and when it did not answer. */
  clients: number | null
  /** Topics joined by a gateway's clients, likewise. */
  subscriptions: number | null
  /** Topics that a poller owns. */
  topics: number | null
  /** Polls of topics per second, of a poller. */
  polls_per_second: number | null
  /** Statements per second that a poller sends to the database. */
  statements_per_second: number | null
}

export interface OwnedTopic {
  topic: string
  owner: string
}

export interface Takeover {
  topic: string
  from: string
  to: string
  /** RFC 3339, the time of this gateway. */
  at: string
  /** How long nobody owned it; 0 for a hand-over. */
  gap_ms: number
}

export interface Cluster {
  gateway: string
  nodes: ClusterNode[]
  topics: OwnedTopic[]
  topics_total: number
  polls_per_second: number | null
  statements_per_second: number | null
  subscriptions: number
  takeovers: Takeover[]
}

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly detail: string,
  ) {
    super(detail)
  }
}

/** The answer as JSON. Throws ApiError; status 0 when the gateway is not reached. */
export async function get<T>(path: string, token: string | null): Promise<T> {
  let response: Response
  try {
    response = await fetch(path, token ? { headers: { authorization: `Bearer ${token}` } } : {})
  } catch {
    throw new ApiError(0, "the gateway is not reached")
  }
  if (!response.ok) {
    const body: unknown = await response.json().catch(() => null)
    const detail = body && typeof body === "object" && "detail" in body ? String(body.detail) : response.statusText
    throw new ApiError(response.status, detail)
  }
  return (await response.json()) as T
}
