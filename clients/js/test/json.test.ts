import { describe, expect, it, test } from "vitest"
import { KeyRounded, parse, Result } from "../src/index.js"
import { canonical, isExact, message } from "../src/json.js"

const AT = "2026-01-01T00:00:00Z"
/** Returns the canonical text of the value that a JSON text has. */
const text = (json: string): string => canonical(parse(`[${json}]`) as object, 0)

describe("an integer beyond 2^53", () => {
  const json = '{"a":9007199254740993,"b":[-9223372036854775808],"c":9007199254740991}'
  it("is a bigint", () => {
    expect(parse(json)).toEqual({ a: 9007199254740993n, b: [-9223372036854775808n], c: 9007199254740991 })
  })
  it("is a string or a rounded number where that is wanted", () => {
    expect(parse(json, "string")).toEqual({ a: "9007199254740993", b: ["-9223372036854775808"], c: 9007199254740991 })
    expect(parse(json, "number")).toEqual({ a: 9007199254740992, b: [-9223372036854775808], c: 9007199254740991 })
  })
  it("is read exactly in a message", () => {
    expect(message(`[null,null,"live:t","snapshot",${json}]`)).toMatchObject({
      topic: "live:t",
      event: "snapshot",
      payload: { a: 9007199254740993n },
    })
  })
})

test("any other JSON is read as JSON.parse does", () => {
  const texts = [
    "0", "-0", "[]", "{}", '""', " [ 1 , 2.5 ] ", '{"a":{"b":[null,true,false]},"a":2}', "1e300", "0.30000000000000004",
    '"a\\"b\\\\"', '"\\u0000\\ud800"', '"12345678901234567890"', '{"\\"12345678901234567890":"\\\\"}',
    '{"__proto__":{"a":1},"length":3}', "12345678901234567890.5", "1e400", "1.5e-400",
  ]
  for (const json of texts) {
    // A large number beside it makes `parse` use its own parser.
    for (const [all, expected] of [[json, JSON.parse(json)], [`[12345678901234567890,${json}]`, undefined]] as const) {
      const value = parse(all)
      if (expected === undefined) expect(value).toEqual([12345678901234567890n, JSON.parse(json)])
      else expect(value).toEqual(expected)
    }
  }
})

test("a text that is not JSON is refused", () => {
  for (const json of ["", "[", "[1,]", '{"a"}', '{"a":1,}', '"', "tru", "1 2", '{"a":1]', "+1", ".5", '"\n"']) {
    expect(() => parse(json), json).toThrow(SyntaxError)
    expect(() => parse(`[12345678901234567890,${json}]`), json).toThrow(SyntaxError)
  }
})

describe("canonical texts", () => {
  it("are the same for equal values", () => {
    for (const equal of [
      ["1", "1.0", "1e0", "10e-1"],
      ["0", "-0", "0.00", "0e5"],
      ["12345678901234567890", "12345678901234567890.0", "1.234567890123456789e19"],
      ["0.1", "1e-1", "0.10"],
      ["1e400", "10e399"],
      ['{"a":1,"b":[2]}', '{ "b" : [2.0], "a" : 3, "a" : 1 }'],
      ['"A/"', '"\\u0041\\/"'],
    ]) {
      expect(new Set(equal.map(text)).size, equal.join(" ")).toBe(1)
    }
  })
  it("differ for other values", () => {
    const different = [
      "9007199254740992", "9007199254740993", "9007199254740994", "0.1", "0.10000000000000001", "1e400", "1e401", "-1",
      "12345678901234567890.123456789", "12345678901234567890.123456788", "1", '"1"', "true", "null", '"null"', "[1]",
      '{"a":9007199254740993}', '{"a":9007199254740992}', '"12345678901234567890"', "12345678901234567890", "[]", "{}",
    ]
    expect(new Set(different.map(text)).size).toBe(different.length)
  })
  it("are JSON with all digits", () => {
    expect(text("9007199254740993")).toBe("9007199254740993")
    expect(text("12345678901234567890.10")).toBe("12345678901234567890.1")
    expect(text("-0.0012345678901234567890")).toBe("-0.001234567890123456789")
    expect(text("1e300")).toBe("1e300")
  })
})

describe("row keys are compared exactly", () => {
  const rows = '[{"id":9007199254740992,"n":1},{"id":9007199254740993,"n":2}]'
  const snapshot = `{"version":"1-1","polled_at":"${AT}","key":["id"],"rows":${rows}}`
  const delta = `{"version":"1-2","base":"1-1","polled_at":"${AT}","deletes":[[9007199254740992]],"upserts":[]}`
  for (const integers of ["bigint", "string", "number"] as const) {
    it(`with integers as ${integers}`, () => {
      const result = Result.ofSnapshot(parse(snapshot, integers) as never)
      expect(result.keys).toEqual(["[9007199254740992]", "[9007199254740993]"])
      expect(result.after(parse(delta, integers) as never).rows).toMatchObject([{ n: 2 }])
    })
  }
  it("or refused when JSON.parse has rounded them", () => {
    expect(() => Result.ofSnapshot(JSON.parse(snapshot))).toThrow(KeyRounded)
    const before = Result.ofSnapshot({ version: "1-1", polled_at: AT, key: ["id"], rows: [{ id: 1 }] })
    expect(() => before.after(JSON.parse(delta))).toThrow(KeyRounded)
  })
  it("also where they are large floating-point numbers", () => {
    const large = snapshot.replace(rows, '[{"id":1e+300}]')
    expect(Result.ofSnapshot(parse(large) as never).keys).toEqual(["[1e300]"])
  })
})

test("a random value has the same canonical text in any spelling", () => {
  let seed = 3
  const next = (below: number): number => (seed = (seed * 1103515245 + 12345) % 2147483648) % below
  const number = (): string => `${next(2) ? "-" : ""}${1 + next(9)}${"0123456789".repeat(next(3))}${next(2) ? `.${next(99)}` : ""}`
  const value = (depth: number): string => {
    const kind = next(depth ? 5 : 3)
    if (kind < 2) return number()
    if (kind === 2) return JSON.stringify("a\"\\\n\u2028é12345678901234567890".slice(0, next(30)))
    const items = Array.from({ length: next(4) }, () => value(depth - 1))
    return kind === 3 ? `[${items}]` : `{${items.map((each, at) => `"${at}":${each}`)}}`
  }
  for (let round = 0; round < 500; round += 1) {
    const json = value(3)
    const again = text(json)
    expect(text(again)).toBe(again)
    expect(isExact(parse(`[${json}]`) as object)).toBe(true)
    expect(text(`\n${json.replaceAll(",", " , ").replaceAll("[", "[ ")} `)).toBe(
      text(json.replaceAll(",", " , ").replaceAll("[", "[ ")),
    )
  }
})
