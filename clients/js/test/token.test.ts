import { expect, it } from "vitest"
import { claims, expiresAt } from "../src/index.js"
import { renewIn } from "../src/token.js"

const jwt = (payload: unknown): string => `e30.${Buffer.from(JSON.stringify(payload)).toString("base64url")}.sig`

it("reads the expiry of a token whose claims are not ASCII", () => {
  expect(expiresAt(jwt({ exp: 1_800_000_000, name: "Zoë ✓ ÿÿÿ" }))).toBe(1_800_000_000_000)
  expect(claims(jwt({ sub: "Zoë ✓" }))).toEqual({ sub: "Zoë ✓" })
})

it("finds no expiry in a token without a numeric exp, nor in a text that is not a token", () => {
  for (const token of ["", "abc", "a.b.c", "a.!.c", jwt(5), jwt([1]), jwt(null), jwt({}), jwt({ exp: "soon" })]) {
    expect(expiresAt(token), token).toBeNull()
  }
})

it("renews a token a minute before its expiry, a short-lived one after half of its remaining time", () => {
  expect(renewIn(3_600_000, 0)).toBe(3_540_000)
  expect(renewIn(61_000, 1_000)).toBe(30_000)
  expect(renewIn(3_000, 1_000)).toBe(1_000)
})

it("does not renew a token that has expired by the local clock", () => {
  expect(renewIn(1_000, 1_000)).toBeNull()
  expect(renewIn(1_000, 2_000)).toBeNull()
})
