import { describe, expect, it } from "vitest"
import { fitting, formsOf } from "../src/fit"
import { change, COLUMNS, depth, free, MOST_TILES, settle, type Place } from "../src/layout"
import { formatWall, parse, type Tile, type WallRoute } from "../src/route"

/** Returns a function that returns pseudo-random integers below its argument, the same ones for the same seed. */
function dice(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

function overlap(tiles: readonly Place[]): boolean {
  return tiles.some((a, at) =>
    tiles.slice(at + 1).some((b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h),
  )
}

function wall(hash: string): WallRoute {
  const route = parse(hash)
  if (route.view !== "wall") throw new Error(`${hash} is no wall`)
  return route
}

describe("the tiles of a wall", () => {
  it("never overlap, stay within the columns, and leave no gap above them, whatever is moved or resized", () => {
    for (let seed = 1; seed <= 200; seed += 1) {
      const roll = dice(seed)
      let tiles: Place[] = []
      for (let step = 0; step < 12; step += 1) {
        const place = { x: roll(14) - 1, y: roll(12), w: roll(14), h: roll(9) }
        if (tiles.length < 2 || roll(3) === 0) tiles = settle([...tiles, place])
        else tiles = change(tiles, roll(tiles.length), roll(2) ? place : { x: place.x, y: place.y })
        expect(overlap(tiles)).toBe(false)
        for (const tile of tiles) {
          expect(tile.x >= 0 && tile.w >= 2 && tile.h >= 2 && tile.x + tile.w <= COLUMNS).toBe(true)
          const higher = { ...tile, y: tile.y - 1 }
          expect(tile.y === 0 || overlap([higher, ...tiles.filter((other) => other !== tile)])).toBe(true)
        }
        expect(settle(tiles)).toEqual(tiles)
      }
    }
  })
  it("make room for the one that is moved", () => {
    const [first, second] = [{ x: 0, y: 0, w: 6, h: 4 }, { x: 6, y: 0, w: 6, h: 4 }]
    expect(change([first, second], 1, { x: 2 })).toEqual([{ ...first, y: 4 }, { ...second, x: 2 }])
    expect(change([first, second], 0, { w: 8 })).toEqual([{ ...first, w: 8 }, { ...second, y: 4 }])
  })
  it("get the first free place", () => {
    expect(free([])).toEqual({ x: 0, y: 0, w: 6, h: 5 })
    expect(free([{ x: 0, y: 0, w: 6, h: 5 }])).toEqual({ x: 6, y: 0, w: 6, h: 5 })
    expect(free([{ x: 0, y: 0, w: 7, h: 3 }])).toEqual({ x: 0, y: 3, w: 6, h: 5 })
    expect(depth([])).toBe(1)
  })
})

describe("the address of a wall", () => {
  const params = new Map([["region", ["a b&c", "d?=%"]], ["limit", ["5"]]])
  const tiles: Tile[] = [
    { x: 0, y: 0, w: 6, h: 5, query: "orders", params, shape: "table", sort: "-a&~b", desc: true },
    { x: 6, y: 0, w: 6, h: 5, query: "orders", params: new Map(), shape: "chart", value: "amount" },
    { x: 0, y: 5, w: 3, h: 3, query: "cluster", params: new Map(), shape: "number" },
  ]
  it("contains all of it", () => {
    const route: WallRoute = { view: "wall", tiles, full: true, theme: "dark" }
    expect(parse(formatWall(route))).toEqual(route)
    expect(formatWall(wall(formatWall(route)))).toBe(formatWall(route))
    expect(parse("#/wall/")).toEqual({ view: "wall", tiles: [], full: false, theme: null })
  })
  it("leaves out what cannot be read, and never fails", () => {
    const bad = [
      "t", "t=", "t=orders", "t=1.2.3.orders", "t=-1.0.6.5.orders", "t=0.0.6.5.", "t=a.b.c.d.orders", "theme=blue", "%",
      "t=%E0%A4%A", "%00&&&=&t=0x1.0.6.5.orders", "t=1e9.0.6.5.orders", "t=0.0.6.5",
    ]
    for (const text of bad) expect(wall(`#/wall/?${text}`)).toMatchObject({ tiles: [], theme: null })
    const odd = wall("#/wall/?t=999.999.999.0.orders%3F~%3Dpie%26~sort%3D&t=0.0.6.5.orders&t=0.0.6.5.%20%F0%9F%92%A3")
    expect(odd.tiles).toMatchObject([
      { x: 0, w: COLUMNS, h: 2, query: "orders", shape: "table", sort: undefined },
      { x: 0, y: 0, w: 6, h: 5 },
      { w: 6, h: 5, query: " 💣" },
    ])
    expect(overlap(odd.tiles)).toBe(false)
    expect(wall(`#/wall/?${"t=0.0.6.5.orders&".repeat(500)}`).tiles).toHaveLength(MOST_TILES)
    expect(parse("#/wall?t=1")).toMatchObject({ view: "topic", query: "wall" })
  })
  it("is read however it is garbled", () => {
    const whole = formatWall({ tiles, full: false, theme: "light" })
    for (let seed = 1; seed <= 500; seed += 1) {
      const roll = dice(seed)
      const letters = [...whole]
      for (let change = 0; change < 4; change += 1) letters.splice(roll(letters.length), roll(4), "%&=.?~#/0é"[roll(10)]!)
      const route = parse(letters.join(""))
      if (route.view === "wall") expect(overlap(route.tiles)).toBe(false)
    }
  })
})

describe("a large figure", () => {
  const fits = (value: number | bigint, decimals: number, letters: number): string => {
    return fitting(formsOf(value, decimals), letters, ({ length }) => length)
  }

  it("has all its digits where they fit, and is shortened as little as its place demands where not", () => {
    expect(fits(1234567.891, 2, 12)).toBe("1,234,567.89")
    expect(fits(1234567.891, 2, 11)).toBe("1.235M")
    expect(fits(1234567.891, 2, 5)).toBe("1.23M")
    expect(fits(1234567.891, 2, 4)).toBe("1.2M")
    expect(fits(-9007199254740993n, 0, 8)).toBe("-9007T")
    expect(fits(-9007199254740993n, 0, 5)).toBe("-9E15")
    expect(fits(3.14159265, 6, 5)).toBe("3.142")
    expect(fits(0.0000001234, 6, 6)).toBe("1.2E-7")
    expect(fits(999_999_999, 0, 1)).toBe("1B")
  })

  it("is never written with more letters by being shortened", () => {
    for (const value of [0, 7, 42, -1, 1000, 12345.6, 1e21, 123456789012345678901234567890n]) {
      const lengths = formsOf(value, 1).map(({ length }) => length)
      expect(lengths).toEqual([...lengths].sort((a, b) => b - a))
      expect(new Set(lengths).size).toBe(lengths.length)
    }
  })
})
