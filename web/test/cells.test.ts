import { readFileSync } from "node:fs"
import { Result, type Row } from "@pollcast/client"
import { describe, expect, it } from "vitest"
import type { Param } from "../src/api"
import { cellText, columnsOf, csv, fullText, isId, localTime, widen } from "../src/columns"
import { fault } from "../src/faults"
import { Order } from "../src/order"
import { Past } from "../src/series"
import { measures, plan } from "../src/shape"
import { snippet } from "../src/snippet"

/** Returns the texts of each row's cells. */
function texts(rows: Row[], key: string[] = []): string[][] {
  const columns = columnsOf(rows, key)
  return rows.map((row) => columns.map((column) => cellText(column, row[column.name])))
}

function result(rows: Row[], key: string[] = ["id"]): Result {
  return Result.ofSnapshot({ version: "1-1", polled_at: "2026-01-01T00:00:00Z", key, rows })
}

describe("cells", () => {
  it("have equally many decimals in a column, separators for measures and none for identifiers", () => {
    const rows = [
      { id: 1, customer_id: 101162, amount: 458.8, units: 1234, year: 2026 },
      { id: 2, customer_id: 9007199254740993n, amount: 495.22, units: 5, year: 2025 },
    ]
    expect(texts(rows, ["id"])).toEqual([
      ["1", "101162", "458.80", "1,234", "2026"],
      ["2", "9007199254740993", "495.22", "5", "2025"],
    ])
    const [amount] = columnsOf([{ amount: 1 }], [])
    expect(widen(amount!, 1.25)).toBe(true)
    expect(widen(amount!, 2.5)).toBe(false)
    expect(cellText(amount!, 3)).toBe("3.00")
    expect(cellText(amount!, 9007199254740993n)).toBe("9,007,199,254,740,993")
  })
  it("say in full what they leave out", () => {
    const rows: Row[] = [{ x: 0.1 + 0.2, at: "2026-01-01T10:00:00.123456+00:00", json: { a: [1n, null] }, no: null, yes: true }]
    const columns = columnsOf(rows, [])
    const full = columns.map((column) => fullText(column, rows[0]![column.name]))
    expect(full).toEqual(["0.30000000000000004", "2026-01-01T10:00:00.123456+00:00", '{\n  "a": [\n    1,\n    null\n  ]\n}', "", ""])
    expect(texts(rows)[0]!.slice(2)).toEqual(['{"a":[1,null]}', "NULL", "true"])
    expect(texts(rows)[0]![0]).toBe("0.300000")
    expect(cellText(columns[0]!, 1e-9)).toBe("1e-9")
    expect(cellText(columns[0]!, "NaN")).toBe("NaN")
  })
  it("have times in the time zone of this computer", () => {
    const at = new Date(2026, 0, 31, 13, 5, 9)
    expect(localTime(at.toISOString())).toBe("2026-01-31 13:05:09")
    expect(localTime(at.toISOString().replace(".000Z", ".25+00:00").replace("T", " "))).toBe("2026-01-31 13:05:09.25")
    expect(localTime("2026-01-31T13:05:09.123456")).toBe("2026-01-31 13:05:09.123") // a time without a zone
    expect(localTime("2026-99-99T99:99:99Z")).toBe("2026-99-99T99:99:99Z")
  })
  it("are copied with all of their digits", () => {
    const rows = [{ id: 9007199254740993n, text: 'a "b", c\nd', none: null, json: { a: 1 } }, { id: 2, text: "", none: true, json: [] }]
    expect(csv(rows)).toBe('id,text,none,json\r\n9007199254740993,"a ""b"", c\nd",,"{""a"":1}"\r\n2,,true,[]\r\n')
  })
})

describe("the order of a sorted table", () => {
  const rows = [
    { id: 1, n: 3, t: "b10" }, { id: 2, n: null, t: "b9" }, { id: 3, n: 1, t: "B10" }, { id: 4, n: 3n, t: "a" }, { id: 5, n: "NaN", t: null },
  ]
  it("is stable, has rows without a value last, and numbers in texts by their size", () => {
    expect(new Order().of(result(rows), { name: "n", desc: false })).toEqual([2, 0, 3, 4, 1])
    expect(new Order().of(result(rows), { name: "n", desc: true })).toEqual([4, 0, 3, 2, 1])
    expect(new Order().of(result(rows), { name: "t", desc: false }).slice(0, 2)).toEqual([3, 1])
    expect(new Order().of(result(rows), { name: "gone", desc: false })).toEqual([0, 1, 2, 3, 4])
  })
  it("does not depend on the order before", () => {
    const order = new Order()
    let many = Array.from({ length: 2000 }, (_, id) => ({ id, n: (id * 7919) % 1009 }))
    order.of(result(many), { name: "n", desc: false })
    for (let round = 1; round <= 3; round += 1) {
      many = [...many.slice(1).map((row) => (row.id % 10 === 0 ? { ...row, n: (row.n * 31 + round) % 1009 } : row)), { id: 2000 + round, n: round }]
      const found = order.of(result(many), { name: "n", desc: false })
      expect(found).toEqual(new Order().of(result(many), { name: "n", desc: false }))
    }
  })
})

describe("a chart", () => {
  it("has a measure as its column, never an identifier or a foreign key", () => {
    expect(measures([{ teller: 1, bid: 3, balance: 10 }, { teller: 2, bid: 1, balance: 9 }], ["teller"])).toEqual(["balance"])
    expect(measures([{ id: 1, bid: 99, ask: 101 }], ["id"])).toEqual(["bid", "ask"])
    expect(measures([{ customer_id: 1, customerId: 2, zip: 1010, n: 1.5 }], [])).toEqual(["n"])
    expect(isId([{ rate_no: 1.5 }], "rate_no", [])).toBe(false)
  })
  it("has a line for each other key of a time series", () => {
    const at = (minute: number): string => `2026-01-01T00:0${minute}:00Z`
    const rows = [0, 1, 2].flatMap((m) => ["north", "south"].map((region) => ({ region, at: at(m), n: m })))
    expect(plan(rows, ["region", "at"])).toEqual({ kind: "lines", time: "at", values: ["n"], by: ["region"] })
    expect(plan(rows, [])).toEqual({ kind: "lines", time: "at", values: ["n"], by: ["region"] })
    const past = new Past()
    past.takePoints(rows, "at", ["region"])
    const { times, lines } = past.lines("n")
    expect(times).toHaveLength(3)
    expect(lines).toEqual([{ name: "north", values: [0, 1, 2] }, { name: "south", values: [0, 1, 2] }])
  })
  it("has bars for things that changed at some time", () => {
    const rows = [3, 1, 2, 5].map((n) => ({ id: n, n, changed: `2026-01-0${n}T00:00:00Z` }))
    expect(plan(rows, ["id"])).toMatchObject({ kind: "bars", values: ["n"] })
  })
  it("keeps the points before the result's beginning, corrects those within, and is bounded", () => {
    const past = new Past()
    const take = (from: number, to: number, n: number): void => {
      const rows = Array.from({ length: to - from }, (_, at) => ({ at: new Date((from + at) * 1000).toISOString(), n }))
      past.takePoints(rows, "at", [])
    }
    take(0, 5, 1)
    take(3, 6, 2)
    expect(past.lines("n")).toEqual({ times: [0, 1, 2, 3, 4, 5], lines: [{ name: "", values: [1, 1, 1, 2, 2, 2] }], left: 0 })
    for (let at = 5; at < 5000; at += 100) take(at, at + 100, 3)
    expect(past.lines("n").times).toHaveLength(600)
    const many = new Past()
    many.takeRows(Array.from({ length: 500 }, (_, n) => ({ n })), Array.from({ length: 500 }, (_, n) => `row ${n}`), 1)
    expect(many.lines("n").left).toBe(56)
    expect(many.lines("n").lines).toHaveLength(8)
  })
})

describe("a wrong parameter", () => {
  const base: Param = { name: "n", type: "int", required: false, default: null, enum: null, min: 1, max: 100, max_length: null }
  it("is named", () => {
    expect(fault(base, ["999"])).toBe("at most 100")
    expect(fault(base, ["0"])).toBe("at least 1")
    expect(fault(base, ["x"])).toBe("not an int")
    expect(fault(base, ["+7"])).toBeNull()
    expect(fault(base, ["9007199254740993"])).toBe("at most 100")
    expect(fault({ ...base, type: "int[]" }, ["1", "101"])).toBe("“101”: at most 100")
    expect(fault({ ...base, type: "date", min: "2026-01-31", max: null }, ["2026-01-30"])).toBe("at least 2026-01-31")
    expect(fault({ ...base, type: "text", min: null, max: null, max_length: 2 }, ["💣💣"])).toBeNull()
    expect(fault({ ...base, type: "text", min: null, max: null, max_length: 2 }, ["abc"])).toBe("at most 2 characters")
    expect(fault({ ...base, type: "text", min: null, max: null, enum: ["a", "b"] }, ["c"])).toBe("one of a, b")
    expect(fault(base, [])).toBeNull()
  })
})

describe("the code for a topic", () => {
  it("has the gateway's address with its prefix, and no secret", () => {
    const code = snippet("JavaScript", "live:orders?region=a+b", "https://x.example/pollcast/", true)
    expect(code).toContain('connect("wss://x.example/pollcast/socket", { token: ')
    expect(snippet("curl", "live:orders?region=a+b", "http://h:1/", false)).toContain("'http://h:1/live/orders?region=a+b'")
    expect(snippet("curl", "live:orders", "http://h:1/", true)).toContain('"Authorization: Bearer $TOKEN"')
    expect(snippet("Python", "live:orders", "http://h:1/p/", false)).toContain('watch("live:orders", url="http://h:1/p")')
  })
})

describe("the colours of lines", () => {
  const css = readFileSync(new URL("../src/page.css", import.meta.url), "utf8")
  const pairs = [...css.matchAll(/--line-(\d): light-dark\(#(\w{6}), #(\w{6})\)/g)]
  const rgb = (hex: string): number[] => [0, 2, 4].map((at) => {
    const value = Number.parseInt(hex.slice(at, at + 2), 16) / 255
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4
  })
  const luminance = ([r = 0, g = 0, b = 0]: number[]): number => 0.2126 * r + 0.7152 * g + 0.0722 * b
  const contrast = (a: string, b: string): number => {
    const [low = 0, high = 0] = [luminance(rgb(a)), luminance(rgb(b))].sort((x, y) => x - y)
    return (high + 0.05) / (low + 0.05)
  }
  /** Severe protanopia and deuteranopia (Machado, Oliveira and Fernandes, 2009), on linear RGB. */
  const BLIND = [
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
  ]
  const lab = (linear: number[]): number[] => {
    const [r = 0, g = 0, b = 0] = linear
    const f = (t: number): number => (t > 0.008856 ? Math.cbrt(t) : 7.787 * t + 16 / 116)
    const [x, y, z] = [
      f((0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505), f(luminance(linear)), f((0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089),
    ]
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]
  }
  it("stand out from the ground, and four solid and four dashed ones differ for the colour-blind", () => {
    expect(pairs).toHaveLength(8)
    for (const [version, ground] of [[2, "ffffff"], [3, "1a2121"]] as const) {
      const colours = pairs.map((pair) => pair[version]!)
      for (const each of colours) expect(contrast(each, ground)).toBeGreaterThan(3)
      for (const matrix of BLIND) {
        const seen = colours.map((each) => lab(matrix.map((row) => row.reduce((sum, by, at) => sum + by * rgb(each)[at]!, 0))))
        for (const four of [seen.slice(0, 4), seen.slice(4)])
          four.forEach((a, at) => {
            for (const b of four.slice(at + 1)) expect(Math.hypot(...a.map((value, i) => value - b[i]!))).toBeGreaterThan(15)
          })
      }
    }
  })
})
