/**
 * JSON whose numbers keep their value. Pure: no I/O.
 *
 * PostgreSQL writes integers of any size and decimals of any length, and JSON.parse rounds them to doubles. `parse` gives
 * integers beyond 2^53 exactly. Decimals become doubles, but their text is remembered, so that row keys are compared by
 * their exact values (`canonical`).
 */

/** A decoded JSON value. Integers beyond ±(2^53 − 1) are bigints. */
export type Json = null | boolean | number | bigint | string | Json[] | { [name: string]: Json }

/**
 * The form of integers beyond ±(2^53 − 1), which a JavaScript number cannot hold: a `bigint`, a `string` with their
 * digits, or a `number`, which is rounded.
 */
export type Integers = "bigint" | "string" | "number"

/** Numbers with so many digits, or such an exponent, that a double may not hold them; also their like inside strings. */
const SUSPECT = /-?\d[\d.]{15,}(?:[eE][+-]?\d+)?|-?\d+(?:\.\d+)?[eE][+-]?\d{3,}/g
const NUMBER = /-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/y
/** A character of a string that is not the character that it stands for, or is not allowed. */
const NOT_PLAIN = /[\\\x00-\x1f]/
/** Length below which a number without an exponent has at most 15 digits, as many as a double always holds. */
const SHORT = 16
const PARTS = /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/
/** Maximum number of digits that a canonical number has before the notation with an exponent is used. */
const MOST_DIGITS = 40
/** Maximum depth to which values are compared. */
const MOST_DEPTH = 200

/** The texts of the numbers that a double does not hold, by the array or object that they are in, and their place. */
const texts = new WeakMap<object, Map<string, string>>()
/** The values that `parse` returned, whose numbers are known to be exact or to be in `texts`. */
const exact = new WeakSet<object>()

/** Returns the value of a JSON text. Throws SyntaxError when the text is not JSON. */
export function parse(text: string, integers: Integers = "bigint"): unknown {
  const value: unknown = (text.match(SUSPECT) ?? []).every(fitsDouble)
    ? JSON.parse(text)
    : new Parser(text, integers).parse()
  keep(value)
  return value
}

/** A message of Phoenix Channels. */
export interface Message {
  join_ref: string | null
  ref: string | null
  topic: string
  event: string
  payload: unknown
}

/** Returns the message of a WebSocket frame, with exact numbers. */
export function message(text: string, integers: Integers = "bigint"): Message {
  const [join_ref, ref, topic, event, payload] = parse(text, integers) as [string, string, string, string, unknown]
  keep(payload)
  return { join_ref, ref, topic, event, payload }
}

/** Returns whether `parse` returned this value, so that none of its numbers was rounded unnoticed. */
export function isExact(value: object): boolean {
  return exact.has(value)
}

/**
 * Returns a JSON text for the element `name` of an array or object, the same for equal values and for no others: numbers
 * are equal by value (1.0 and 1e0), objects regardless of the order of their names.
 */
export function canonical(holder: object, name: string | number): string {
  const value = (holder as Record<string | number, Json>)[name]
  const text = texts.get(holder)?.get(String(name))
  if (text !== undefined) return decimal(text)
  switch (typeof value) {
    case "number":
      return Number.isSafeInteger(value) ? String(value) : decimal(String(value))
    case "bigint":
      return decimal(String(value))
    case "string":
      return JSON.stringify(value)
    case "object": {
      if (value === null) return "null"
      if (Array.isArray(value)) return `[${value.map((_, at) => canonical(value, at)).join(",")}]`
      const names = Object.keys(value).sort()
      return `{${names.map((each) => `${JSON.stringify(each)}:${canonical(value, each)}`).join(",")}}`
    }
    default:
      return String(value)
  }
}

/** Returns whether two values of `parse` are equal, with all digits of their numbers; false if they are too deep. */
export function same(one: unknown, other: unknown, depth = 0): boolean {
  if (depth > MOST_DEPTH) return false
  if (one === other || typeof one !== "object" || typeof other !== "object" || !one || !other) return Object.is(one, other)
  const [digits, others] = [texts.get(one), texts.get(other)]
  if (digits?.size !== others?.size) return false
  for (const [name, text] of digits ?? []) if (others!.get(name) !== text) return false
  if (Array.isArray(one) || Array.isArray(other)) {
    if (!Array.isArray(one) || !Array.isArray(other) || one.length !== other.length) return false
    return one.every((value, at) => same(value, (other as unknown[])[at], depth + 1))
  }
  const names = Object.keys(one)
  if (names.length !== Object.keys(other).length) return false
  const [mine, yours] = [one as Record<string, unknown>, other as Record<string, unknown>]
  return names.every((name) => Object.hasOwn(yours, name) && same(mine[name], yours[name], depth + 1))
}

function keep(value: unknown): void {
  if (typeof value === "object" && value !== null) exact.add(value)
}

/** Returns whether a JavaScript number holds the number with this text, but for its spelling. */
function fitsDouble(text: string): boolean {
  if (text.length < SHORT && !/[eE]/.test(text)) return true
  const value = Number(text)
  const read = String(value)
  if (!/[.eE]/.test(text)) return Number.isSafeInteger(value)
  return read === text || (Number.isFinite(value) && decimal(read) === decimal(text))
}

/** Returns the one spelling of a decimal number: equal numbers have equal texts. */
function decimal(text: string): string {
  const [, sign, whole, fraction = "", exponent = "0"] = PARTS.exec(text) ?? []
  if (whole === undefined) return text // Infinity: a rounded number of a payload that `parse` did not return
  const all = whole + fraction
  let [from, until] = [0, all.length]
  while (all[from] === "0") from += 1
  while (until > from && all[until - 1] === "0") until -= 1
  const digits = all.slice(from, until)
  if (!digits) return "0"
  const zeros = BigInt(exponent) + BigInt(all.length - until - fraction.length) // after the last digit
  const point = Number(zeros) + digits.length
  if (zeros >= 0n && point <= MOST_DIGITS) return sign + digits + "0".repeat(Number(zeros))
  if (zeros >= 0n || zeros < -MOST_DIGITS) return `${sign}${digits}e${zeros}`
  return sign + (point > 0 ? digits.slice(0, point) : "0") + "." + "0".repeat(Math.max(0, -point)) + digits.slice(Math.max(0, point))
}

/** The parser of one text that has numbers for which JSON.parse does not do. */
class Parser {
  private at = 0

  constructor(
    private readonly text: string,
    private readonly integers: Integers,
  ) {}

  parse(): unknown {
    const holder: { value?: unknown } = {}
    this.value(holder, "value")
    if (this.at < this.text.length) this.fail()
    return holder.value
  }

  /** Reads a value, and the space around it, into the element `name` of an array or object. */
  private value(holder: object, name: string): void {
    this.space()
    const first = this.text[this.at]
    let value: unknown
    if (first === '"') value = this.string()
    else if (first === "{") value = this.object()
    else if (first === "[") value = this.array()
    else if (first === "t") value = this.word("true", true)
    else if (first === "f") value = this.word("false", false)
    else if (first === "n") value = this.word("null", null)
    else value = this.number(holder, name)
    if (name === "__proto__") Object.defineProperty(holder, name, { value, writable: true, enumerable: true, configurable: true })
    else (holder as Record<string, unknown>)[name] = value
    this.space()
  }

  private array(): unknown[] {
    const items: unknown[] = []
    this.at += 1
    this.space()
    if (this.takes("]")) return items
    do this.value(items, String(items.length))
    while (this.takes(","))
    this.expect("]")
    return items
  }

  private object(): object {
    const members = {}
    this.at += 1
    this.space()
    if (this.takes("}")) return members
    do {
      this.space()
      const name = this.string()
      texts.get(members)?.delete(name) // of equal names the last one counts
      this.space()
      this.expect(":")
      this.value(members, name)
    } while (this.takes(","))
    this.expect("}")
    return members
  }

  private string(): string {
    const start = this.at
    this.expect('"')
    for (;;) {
      const end = this.text.indexOf('"', this.at)
      if (end < 0) this.fail()
      let escapes = end
      while (this.text[escapes - 1] === "\\") escapes -= 1
      this.at = end + 1
      if ((end - escapes) % 2 !== 0) continue
      const plain = this.text.slice(start + 1, end)
      return NOT_PLAIN.test(plain) ? (JSON.parse(this.text.slice(start, this.at)) as string) : plain
    }
  }

  private number(holder: object, name: string): unknown {
    NUMBER.lastIndex = this.at
    const text = NUMBER.exec(this.text)?.[0] ?? this.fail()
    this.at += text.length
    if (fitsDouble(text)) return Number(text)
    const known = texts.get(holder)
    if (known) known.set(name, text)
    else texts.set(holder, new Map([[name, text]]))
    if (this.integers === "number" || /[.eE]/.test(text)) return Number(text)
    return this.integers === "bigint" ? BigInt(text) : text
  }

  private word<T>(word: string, value: T): T {
    if (!this.text.startsWith(word, this.at)) this.fail()
    this.at += word.length
    return value
  }

  private space(): void {
    for (;;) {
      const letter = this.text.charCodeAt(this.at)
      if (letter !== 0x20 && letter !== 0x0a && letter !== 0x0d && letter !== 0x09) return
      this.at += 1
    }
  }

  private takes(letter: string): boolean {
    if (this.text[this.at] !== letter) return false
    this.at += 1
    return true
  }

  private expect(letter: string): void {
    if (!this.takes(letter)) this.fail()
  }

  private fail(): never {
    throw new SyntaxError(`not JSON at position ${this.at}`)
  }
}
