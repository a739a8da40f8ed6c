/**
 * A form with a control for each parameter of a query, chosen by the parameter's type. The values of a list are chosen
 * from all that are allowed, or written one per line.
 *
 * It reports each change that leads to a complete and valid set of values. An empty parameter is left out of the topic:
 * it takes its default, or is NULL.
 */
import type { Param, Query, ValueType } from "./api"
import { el } from "./dom"
import type { Params } from "./route"

type Control = HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement

/** The form of one query; `onChange` receives the values that differ from the defaults. */
export class Controls {
  readonly element: HTMLFormElement
  private readonly inputs = new Map<string, Control>()
  private timer = 0

  constructor(
    private readonly query: Query,
    params: Params,
    private readonly onChange: (params: Params) => void,
  ) {
    this.element = el("form", { class: "controls", "aria-label": "Parameters", novalidate: true })
    for (const param of query.params) this.element.append(this.field(param, params.get(param.name)))
    this.element.addEventListener("submit", (event) => event.preventDefault())
    this.element.addEventListener("input", (event) =>
      this.reportAfter(event.target instanceof HTMLSelectElement ? 0 : 300),
    )
    this.element.addEventListener("change", () => this.reportAfter(0))
    this.element.hidden = query.params.length === 0
  }

  /** Returns the values that differ from the defaults, or null while a value is missing or invalid. */
  values(): Params | null {
    const params = new Map<string, string[]>()
    for (const param of this.query.params) {
      const input = this.inputs.get(param.name)!
      if (input instanceof HTMLTextAreaElement) input.setCustomValidity(fault(param, input))
    }
    for (const param of this.query.params) {
      const input = this.inputs.get(param.name)!
      if (!input.checkValidity()) return null
      const texts = read(param, input)
      if (texts.length === 0) {
        if (param.required) return null
      } else if (asSet(texts) !== asSet(defaults(param))) {
        params.set(param.name, texts)
      }
    }
    return params
  }

  private reportAfter(ms: number): void {
    window.clearTimeout(this.timer)
    this.timer = window.setTimeout(() => {
      const params = this.values()
      this.element.classList.toggle("incomplete", params === null)
      for (const input of this.inputs.values()) input.setAttribute("aria-invalid", String(!input.checkValidity()))
      if (params) this.onChange(params)
    }, ms)
  }

  private field(param: Param, given: readonly string[] | undefined): HTMLElement {
    const id = `param-${param.name}`
    const input = control(param, id)
    const initial = param.type === "int" && param.required && param.min !== null ? [String(param.min)] : []
    write(param, input, given ?? (param.default === null ? initial : defaults(param)))
    this.inputs.set(param.name, input)
    const label = el("label", { for: id }, param.name)
    if (input instanceof HTMLInputElement && input.type === "number" && param.type === "int") {
      return el("div", { class: "field" }, label, stepper(param, input))
    }
    return el("div", { class: "field" }, label, input)
  }
}

/** Returns whether the parameter is a list. */
function isList(param: Param): boolean {
  return param.type.endsWith("[]")
}

/** Returns the type of one value of the parameter. */
function valueType(param: Param): ValueType {
  return param.type.replace("[]", "") as ValueType
}

/** Returns the texts of the parameter's default; none when there is no default. */
function defaults(param: Param): string[] {
  return param.default === null ? [] : [param.default].flat().map(String)
}

/** Returns a text that is the same for the same set of texts. */
function asSet(texts: readonly string[]): string {
  return JSON.stringify([...new Set(texts)].sort())
}

/** Returns the control for a parameter. */
function control(param: Param, id: string): Control {
  const list = isList(param)
  const type = valueType(param)
  const choices = param.enum ?? (type === "bool" ? ["true", "false"] : null)
  if (choices) {
    const select = el("select", { id, name: param.name, required: param.required, multiple: list })
    // A single choice without a default can be empty when the parameter is optional.
    if (!list && !param.required && param.default === null) select.append(el("option", { value: "" }, "–"))
    for (const value of choices) select.append(el("option", { value: String(value) }, String(value)))
    return select
  }
  const attributes: Record<string, string | number | boolean | undefined> = {
    id,
    name: param.name,
    required: param.required,
    placeholder: defaults(param).join("\n"),
    autocomplete: "off",
  }
  if (list) return el("textarea", { ...attributes, rows: 2, title: `${type} values, one per line` })
  const bounds = { min: param.min ?? undefined, max: param.max ?? undefined }
  switch (type) {
    case "int":
      return el("input", { ...attributes, ...bounds, type: "number", step: 1, inputmode: "numeric" })
    case "float":
    case "numeric":
      return el("input", { ...attributes, ...bounds, type: "number", step: "any", inputmode: "decimal" })
    case "date":
      return el("input", { ...attributes, ...bounds, type: "date" })
    case "timestamptz":
      return el("input", { ...attributes, type: "datetime-local", step: 1 })
    case "uuid":
      return el("input", {
        ...attributes,
        type: "text",
        pattern: FORMS.uuid.source.slice(1, -1),
        size: 36,
      })
    case "text":
      return el("input", { ...attributes, type: "text", maxlength: param.max_length ?? 256 })
    case "bool":
      throw new Error("a bool is a choice")
  }
}

/** The form of one line of a list, by type; the gateway checks it completely. */
const FORMS: Record<ValueType, RegExp> = {
  text: /^[^]*$/,
  int: /^[+-]?[0-9]+$/,
  float: /^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$/,
  numeric: /^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$/,
  bool: /^(true|false|1|0)$/,
  date: /^[0-9]{4}-[0-9]{2}-[0-9]{2}$/,
  timestamptz: /^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}.*([Zz]|[+-][0-9]{2}:?([0-9]{2})?)$/,
  uuid: /^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$/,
}

/** Returns the reason why a line of the list is invalid; empty when all are valid. */
function fault(param: Param, input: HTMLTextAreaElement): string {
  const type = valueType(param)
  const most = param.max_length ?? Infinity
  const wrong = lines(input).find((line) => !FORMS[type].test(line) || [...line].length > most)
  return wrong === undefined ? "" : `“${wrong}” is not a valid ${type}`
}

/** Returns the lines of a list, without empty ones. */
function lines(input: HTMLTextAreaElement): string[] {
  return input.value.split("\n").filter((line) => line !== "")
}

/** Returns a number field between two buttons that are large enough for a thumb. */
function stepper(param: Param, input: HTMLInputElement): HTMLElement {
  const step = (by: 1 | -1, text: string): HTMLButtonElement => {
    const button = el(
      "button",
      { type: "button", "aria-label": `${by < 0 ? "decrease" : "increase"} ${param.name}` },
      text,
    )
    button.addEventListener("click", () => {
      if (input.value === "") input.value = input.placeholder || input.min || "0"
      else if (by > 0) input.stepUp()
      else input.stepDown()
      input.dispatchEvent(new Event("change", { bubbles: true }))
    })
    return button
  }
  return el("span", { class: "stepper" }, step(-1, "−"), input, step(1, "+"))
}

/** Returns the control's values as a topic spells them. */
function read(param: Param, input: Control): string[] {
  if (input instanceof HTMLTextAreaElement) return lines(input)
  if (input instanceof HTMLSelectElement && input.multiple) return [...input.selectedOptions].map((each) => each.value)
  if (input.value === "") return []
  if (param.type !== "timestamptz") return [input.value]
  return [new Date(input.value).toISOString().replace(/\.000Z$/, "Z")] // the control holds local time
}

/** Sets the control to values as a topic spells them. */
function write(param: Param, input: Control, texts: readonly string[]): void {
  if (input instanceof HTMLTextAreaElement) {
    input.value = texts.join("\n")
    return
  }
  if (input instanceof HTMLSelectElement && input.multiple) {
    for (const option of input.options) option.selected = texts.includes(option.value)
    return
  }
  const text = texts[0] ?? ""
  if (param.type !== "timestamptz" || text === "") {
    input.value = text
    if (input instanceof HTMLSelectElement && input.selectedIndex < 0) input.selectedIndex = 0
    return
  }
  const at = new Date(text)
  if (Number.isNaN(at.getTime())) return
  const local = new Date(at.getTime() - at.getTimezoneOffset() * 60_000)
  input.value = local.toISOString().slice(0, 19)
}
