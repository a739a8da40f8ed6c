import { describe, expect, it, test } from "vitest"
import { ProtocolViolated, Result, topic, type DeltaPayload, type Row } from "../src/index.js"

const AT = "2026-01-01T00:00:00Z"
const snapshot = (rows: Row[], key = ["id"]): Result => Result.ofSnapshot({ version: "1-1", polled_at: AT, key, rows })
const delta = (deletes: DeltaPayload["deletes"], upserts: DeltaPayload["upserts"], base = "1-1"): DeltaPayload => ({
  version: "1-2",
  base,
  polled_at: AT,
  deletes,
  upserts,
})

/** Returns a generator of pseudo-random numbers from 0 to 1, the same for each seed. */
function random(seed: number): () => number {
  return () => {
    seed = (seed * 1103515245 + 12345) % 2147483648
    return seed / 2147483648
  }
}

/** Returns a correct delta that is not the smallest: it replaces all rows after the common, unchanged beginning. */
function naive(before: Row[], after: Row[]): DeltaPayload {
  const same = (a: Row | undefined, b: Row | undefined): boolean => JSON.stringify(a) === JSON.stringify(b)
  let common = 0
  while (common < after.length && same(before[common], after[common])) common += 1
  const inserted = after.slice(common)
  const ids = new Set(inserted.map((row) => row["id"]))
  const deletes = before.slice(common).flatMap((row) => (ids.has(row["id"]!) ? [] : [[row["id"]!]]))
  return delta(deletes, inserted.map((row, index) => ({ at: common + index, row })))
}

test("a delta leads from any result to any other result", () => {
  const next = random(7)
  const rows = (): Row[] => {
    const ids = Array.from({ length: 12 }, (_, id) => id).filter(() => next() < 0.6)
    ids.sort(() => next() - 0.5)
    return ids.map((id) => ({ id, n: Math.floor(next() * 3) }))
  }
  for (let round = 0; round < 500; round += 1) {
    const [before, after] = [rows(), rows()]
    const change = naive(before, after)
    if (!change.deletes.length && !change.upserts.length) continue
    const result = snapshot(before).after(change)
    expect(result.rows).toEqual(after)
    expect(result.keys).toEqual(after.map((row) => JSON.stringify([row["id"]])))
  }
})

test("a delta inserts rows between the rows that stay", () => {
  const result = snapshot([{ id: 1 }, { id: 2 }, { id: 3 }]).after(
    delta([[2]], [{ at: 0, row: { id: 9 } }, { at: 2, row: { id: 8 } }]),
  )
  expect(result.rows.map((row) => row["id"])).toEqual([9, 1, 8, 3])
  expect(result.version).toBe("1-2")
})

test("a delta leaves the result to which it is applied unchanged", () => {
  const before = snapshot([{ id: 1 }, { id: 2 }])
  before.after(delta([[1]], []))
  expect(before.rows).toEqual([{ id: 1 }, { id: 2 }])
})

describe("a delta that does not fit the result is never applied:", () => {
  const cases: [string, DeltaPayload, RegExp][] = [
    ["another base", delta([[1]], [], "1-0"), /1-1 is known/],
    ["an empty delta", delta([], []), /empty/],
    ["a row to delete that the result does not have", delta([[7]], []), /not there/],
    ["the same key twice", delta([[1]], [{ at: 0, row: { id: 1 } }]), /twice/],
    ["indexes that do not ascend", delta([], [{ at: 1, row: { id: 5 } }, { at: 1, row: { id: 6 } }]), /ascend/],
    ["an index beyond the end", delta([], [{ at: 3, row: { id: 5 } }]), /beyond/],
    ["a row without its key column", delta([], [{ at: 0, row: { n: 5 } }]), /lacks/],
  ]
  it.each(cases)("%s", (_, payload, why) => {
    const before = snapshot([{ id: 1 }, { id: 2 }])
    expect(() => before.after(payload)).toThrow(ProtocolViolated)
    expect(() => before.after(payload)).toThrow(why)
  })
  it("any delta for a query without a key", () => {
    expect(() => snapshot([{ n: 1 }, { n: 1 }], []).after(delta([[1]], []))).toThrow(/without a key/)
  })
})

test("a snapshot with the same key twice is refused", () => {
  expect(() => snapshot([{ id: 1 }, { id: 1 }])).toThrow(/twice/)
})

test("a topic's parameters are encoded as URLSearchParams does it", () => {
  expect(topic("orders")).toBe("live:orders")
  expect(topic("orders", { region: "a b&c", limit: 5, all: true, none: undefined })).toBe(
    "live:orders?region=a+b%26c&limit=5&all=true",
  )
  expect(topic("orders", { regions: ["a b", "c"], ids: [2, 1n], none: [], absent: null })).toBe(
    "live:orders?regions=a+b&regions=c&ids=2&ids=1",
  )
  expect(topic("orders", { regions: [], absent: null })).toBe("live:orders")
  expect(topic("orders", { regions: [""] })).toBe("live:orders?regions=")
  expect(topic("x", { at: new Date(0) })).toBe("live:x?at=1970-01-01T00%3A00%3A00.000Z")
})
