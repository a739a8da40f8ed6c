/** The gateway's HTTP interface: the types of its answers and `get` (docs/reference/http.md). */

/** The type of one value of a parameter. */
export type ValueType = "text" | "int" | "float" | "numeric" | "bool" | "date" | "timestamptz" | "uuid"

/** One value of a parameter. */
export type Value = string | number | boolean

/** A parameter of a query. The type of a list ends with `[]`, and its default is an array. */
export interface Param {
  name: string
  type: ValueType | `${ValueType}[]`
  required: boolean
  default: Value | Value[] | null
  enum: (string | number)[] | null
  min: string | number | null
  max: string | number | null
  max_length: number | null
}

/** A query of the catalogue, as `GET /api/queries` lists it. */
export interface Query {
  name: string
  title: string | null
  key: string[]
  interval_ms: number
  presence: boolean
  params: Param[]
}

/** A node of the cluster. The rates are those of a poller. */
export interface ClusterNode extends PollRates {
  name: string
  role: "gateway" | "poller" | "coordinator"
  state: "starting" | "ready" | "draining"
  http: string | null
  started_at: string
  version: string
  /** The open sockets of a gateway; null for other roles, and when the gateway did not answer. */
  clients: number | null
  /** The topics that a gateway's clients have joined, counted once per client; null as for `clients`. */
  subscriptions: number | null
  /** The number of topics that a poller owns. */
  topics: number | null
}

/** What pollers do per second; null before it is known. Of a cluster, the sums over its pollers. */
export interface PollRates {
  /** Polls of topics. */
  polls_per_second: number | null
  /** Statements sent to the database. */
  statements_per_second: number | null
  /** Polls for which the database sent no rows, because the digest of the result was unchanged. */
  unsent_per_second: number | null
  /** Bytes of rows and digests that the database sent. */
  bytes_per_second: number | null
  /** Statements that were not needed because the result of a probe was unchanged. */
  avoided_per_second: number | null
  /** Polls that hints asked for. */
  hinted_per_second: number | null
}

/** A topic and the poller that owns it. */
export interface OwnedTopic {
  topic: string
  owner: string
}

/** A change of a topic's owner. */
export interface Takeover {
  topic: string
  from: string
  to: string
  /** The time of the change by this gateway's clock, in RFC 3339. */
  at: string
  /** The time without an owner, in milliseconds; 0 for a hand-over. */
  gap_ms: number
}

/** The cluster, as `GET /api/cluster` reports it. */
export interface Cluster extends PollRates {
  gateway: string
  nodes: ClusterNode[]
  topics: OwnedTopic[]
  topics_total: number
  subscriptions: number
  takeovers: Takeover[]
}

/** An answer that is not 2xx, or none: `status` is then 0. `detail` is a sentence for people. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly detail: string,
  ) {
    super(detail)
  }
}

/** Returns the JSON of a GET request. Throws ApiError for any other answer, with status 0 when there is none. */
export async function get<T>(path: string, token: string | null): Promise<T> {
  let response: Response
  try {
    response = await fetch(path, token ? { headers: { authorization: `Bearer ${token}` } } : {})
  } catch {
    throw new ApiError(0, "the gateway cannot be reached")
  }
  if (!response.ok) {
    const body: unknown = await response.json().catch(() => null)
    const detail = body && typeof body === "object" && "detail" in body ? String(body.detail) : response.statusText
    throw new ApiError(response.status, detail)
  }
  return (await response.json()) as T
}
