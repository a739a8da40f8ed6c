import { describe, expect, it, test } from "vitest"
import { format, parse, spelling } from "../src/route"
import { bytes, savings } from "../src/savings"
import { plan } from "../src/shape"
import { ago, columns, count, moment, short, show, ticks, timeTicks } from "../src/values"

describe("the address", () => {
  it("contains a topic, so that a link can be shared", () => {
    const params = new Map([["region", ["a b&c"]], ["limit", ["5"]]])
    for (const shape of ["table", "chart"] as const) {
      expect(parse(format("orders", params, shape))).toEqual({ view: "topic", query: "orders", params, shape })
    }
    expect(spelling("orders", params)).toBe("live:orders?region=a+b%26c&limit=5")
    expect(spelling("orders", new Map())).toBe("live:orders")
  })
  it("repeats the parameter of a list", () => {
    const params = new Map([["ids", ["2", "1"]], ["names", [""]], ["none", []]])
    expect(format("orders", params, "chart")).toBe("#/orders?ids=2&ids=1&names=&%7E=chart")
    expect(parse("#/orders?ids=2&names=&ids=1&~=chart")).toEqual({
      view: "topic",
      query: "orders",
      params: new Map([["ids", ["2", "1"]], ["names", [""]]]),
      shape: "chart",
    })
    expect(spelling("orders", params)).toBe("live:orders?ids=2&ids=1&names=")
  })
  it("can be empty, or name the view of the cluster", () => {
    expect(parse("")).toEqual({ view: "none" })
    expect(parse("#/")).toEqual({ view: "none" })
    expect(parse("#/cluster/")).toEqual({ view: "cluster" })
  })
  it("distinguishes the view of the cluster from a query named cluster", () => {
    expect(parse(format("cluster", new Map(), "table"))).toMatchObject({ view: "topic", query: "cluster" })
  })
})

describe("the shape of a result determines its chart:", () => {
  it("bars for rows with numbers, named by the key", () => {
    expect(plan([{ id: 1, n: 2 }, { id: 2, n: 3 }], ["id"])).toEqual({ kind: "bars", label: "id", values: ["n"] })
  })
  it("lines for rows with a time column", () => {
    const rows = [{ at: "2026-01-01T00:00:00Z", n: 2 }, { at: "2026-01-01T00:00:01Z", n: 3 }]
    expect(plan(rows, [])).toEqual({ kind: "lines", time: "at", values: ["n"] })
  })
  it("a history for a single row", () => {
    expect(plan([{ tps: 2.5 }], [])).toEqual({ kind: "history", values: ["tps"] })
  })
  it("bars for integers of any size, and for numbers among NaN and infinities", () => {
    const rows = [{ id: 1n, n: 9007199254740993n, x: 0.5 }, { id: 2, n: 3, x: "NaN" }]
    expect(plan(rows, ["id"])).toEqual({ kind: "bars", label: "id", values: ["n", "x"] })
    expect(plan([{ id: 1, x: "NaN" }, { id: 2, x: "NaN" }], ["id"])).toMatchObject({ kind: "none" })
  })
  it("none without rows or numbers", () => {
    expect(plan([{ name: "a" }], [])).toMatchObject({ kind: "none" })
    expect(plan([], [])).toMatchObject({ kind: "none" })
  })
})

test("values have short, readable texts", () => {
  expect(show(1234567.5)).toBe("1,234,567.5")
  expect(show(null)).toBe("–")
  expect(show(true)).toBe("true")
  expect(show([1, "a"])).toBe('[1,"a"]')
  expect(show(9007199254740993n)).toBe("9,007,199,254,740,993")
  expect(show([9007199254740993n, { a: null }])).toBe('[9007199254740993,{"a":null}]')
  expect(show("2026-01-01T10:00:00.123456+00:00")).toBe("2026-01-01 10:00:00.123Z")
  expect(columns([{ a: 1 }, { a: 1, b: 2 }])).toEqual(["a", "b"])
  expect([1.234, 12.34, 123.4, 12345].map(short)).toEqual(["1.23", "12.3", "123", "12.3K"])
  expect(count(1, "client")).toBe("1 client")
  expect(count(2, "client")).toBe("2 clients")
  expect(ago(400)).toBe("0.4 s")
  expect(ago(90_000)).toBe("90 s")
  expect(ago(600_000)).toBe("10 min")
  const noon = new Date(2026, 10, 26, 12).getTime()
  expect(moment(noon - 3_600_000, noon)).toBe("11:00:00")
  expect(moment(noon - 86_400_000, noon)).toBe("25 Nov 2026, 12:00:00")
})

describe("the line about all polls", () => {
  const none = { polls_per_second: 0, statements_per_second: 0, unsent_per_second: 0, bytes_per_second: 0 }
  const idle = { ...none, avoided_per_second: 0, hinted_per_second: 0 }
  it("has what they cost and what was saved", () => {
    const busy = { ...idle, polls_per_second: 1204, unsent_per_second: 1180, bytes_per_second: 35_040 }
    expect(savings(busy)).toBe("1,204 polls/s, 98 % without rows, 35 KB/s from the database")
    expect(savings({ ...busy, hinted_per_second: 12, avoided_per_second: 3.25 })).toBe(
      "1,204 polls/s, 98 % without rows, 35 KB/s from the database, 3.25 statements/s avoided by probes, 12 hints/s",
    )
  })
  it("has no share of no polls, and never one above all", () => {
    expect(savings(idle)).toBe("0 polls/s, 0 B/s from the database")
    expect(savings({ ...idle, polls_per_second: 10, unsent_per_second: 11 })).toContain("100 % without rows")
  })
  it("is missing until the rates are known, and goes without those of older pollers", () => {
    expect(savings({ ...idle, polls_per_second: null })).toBeNull()
    const old = { ...idle, polls_per_second: 2, unsent_per_second: null, bytes_per_second: null }
    expect(savings(old)).toBe("2 polls/s, 0 % without rows, 0 B/s from the database")
  })
  it("has sizes with few digits", () => {
    expect([0, 999, 1000, 35_400, 2_345_678, 7.1e10].map(bytes)).toEqual(
      ["0 B", "999 B", "1 KB", "35.4 KB", "2.3 MB", "71 GB"],
    )
  })
})

describe("the labels of an axis", () => {
  it("have as many digits as distinguish the numbers", () => {
    expect(ticks([20.1, 20.15, 20.2])).toEqual(["20.10", "20.15", "20.20"])
    expect(ticks([0, 0.25, 0.5])).toEqual(["0.00", "0.25", "0.50"])
    expect(ticks([0, 5, 10])).toEqual(["0", "5", "10"])
    expect(ticks([0, 5_000, 10_000])).toEqual(["0", "5K", "10K"])
    expect(ticks([3])).toEqual(["3"])
    expect(ticks([])).toEqual([])
  })
  it("are as precise as the distance of the times", () => {
    const at = (...time: [number, number, number]): number => new Date(2026, 0, 2, ...time).getTime() / 1000
    expect(timeTicks([at(12, 0, 58), at(12, 0, 59), at(12, 1, 0)])).toEqual(["12:00:58", "12:00:59", "12:01:00"])
    expect(timeTicks([at(0, 0, 0), at(6, 0, 0)])).toEqual(["Jan 2", "06:00"])
    expect(timeTicks([at(0, 0, 0), at(24, 0, 0)])).toEqual(["Jan 2", "Jan 3"])
  })
})
