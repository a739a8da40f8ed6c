/** What is wrong with a parameter's values, in the gateway's sense. The gateway checks them completely. Pure: no I/O. */
import type { Param, ValueType } from "./api"

/** The form of one value, by type. */
export const FORMS: Record<ValueType, RegExp> = {
  text: /^[^]*$/,
  int: /^[+-]?[0-9]+$/,
  float: /^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$/,
  numeric: /^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$/,
  bool: /^(true|false|1|0)$/,
  date: /^[0-9]{4}-[0-9]{2}-[0-9]{2}$/,
  timestamptz: /^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}.*([Zz]|[+-][0-9]{2}:?([0-9]{2})?)$/,
  uuid: /^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$/,
}

const AN = new Set<ValueType>(["int"])

/** Returns whether the parameter is a list. */
export function isList(param: Param): boolean {
  return param.type.endsWith("[]")
}

/** Returns the type of one value of the parameter. */
export function valueType(param: Param): ValueType {
  return param.type.replace("[]", "") as ValueType
}

/** Returns what is wrong with the first wrong value, such as `at most 100`; null when all are valid. */
export function fault(param: Param, texts: readonly string[]): string | null {
  for (const text of texts) {
    const wrong = faultOf(param, text)
    if (wrong !== null) return isList(param) ? `“${text}”: ${wrong}` : wrong
  }
  return null
}

function faultOf(param: Param, text: string): string | null {
  const type = valueType(param)
  const { min, max, max_length: most } = param
  if (!FORMS[type].test(text)) return `not ${AN.has(type) ? "an" : "a"} ${type}`
  if (most !== null && [...text].length > most) return `at most ${most} characters`
  if (param.enum && !param.enum.map(String).includes(text)) return `one of ${param.enum.join(", ")}`
  if (min !== null && compare(type, text, String(min)) < 0) return `at least ${min}`
  if (max !== null && compare(type, text, String(max)) > 0) return `at most ${max}`
  return null
}

/** Returns a negative number, zero or a positive number, as `a` is less than, equal to or more than `b`. */
function compare(type: ValueType, a: string, b: string): number {
  if (type === "int") {
    const [left, right] = [BigInt(a.replace(/^\+/, "")), BigInt(b.replace(/^\+/, ""))]
    return left < right ? -1 : left > right ? 1 : 0
  }
  if (type === "timestamptz") return Date.parse(a) - Date.parse(b)
  if (type === "float" || type === "numeric") return Number(a) - Number(b)
  return a < b ? -1 : a > b ? 1 : 0
}
