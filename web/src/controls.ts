/**
 * A form with a control for each parameter of a query, chosen by the parameter's type. The values of a list are chosen
 * from all that are allowed, or written one per line.
 *
 * It reports each change that leads to a complete and valid set of values, and says below a control what is wrong with
 * its value. An empty parameter is left out of the topic: it takes its default, is NULL, or is the empty list.
 */
import type { Param, Query } from "./api"
import { el, setText, uid } from "./dom"
import { fault, FORMS, isList, valueType } from "./faults"
import type { Params } from "./route"

type Control = HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement

/** Time after the last key until a typed value is taken. */
const TYPING_MS = 300
/** Number of choices of a list that are visible at once. */
const MOST_CHOICES = 6

/** A control, and the place for what is wrong with its value. */
interface Field {
  param: Param
  input: Control
  wrong: HTMLElement
}

/** The form of one query; `onChange` receives the values that differ from the defaults. */
export class Controls {
  readonly element: HTMLFormElement
  private readonly fields: Field[] = []
  private timer = 0

  constructor(
    query: Query,
    params: Params,
    private readonly onChange: (params: Params) => void,
  ) {
    this.element = el("form", { class: "controls", "aria-label": "Parameters", novalidate: true })
    for (const param of query.params) this.element.append(this.field(param, params.get(param.name)))
    this.element.addEventListener("submit", (event) => {
      event.preventDefault()
      this.reportAfter(0)
    })
    this.element.addEventListener("input", (event) =>
      this.reportAfter(event.target instanceof HTMLSelectElement ? 0 : TYPING_MS),
    )
    this.element.addEventListener("change", () => this.reportAfter(0))
    this.element.hidden = query.params.length === 0
    for (const field of this.fields) if (params.has(field.param.name)) this.mark(field)
  }

  /** Returns the values that differ from the defaults, or null while a value is missing or invalid. */
  values(): Params | null {
    const params = new Map<string, string[]>()
    for (const { param, input } of this.fields) {
      if (wrongOf(param, input) !== null) return null
      const texts = read(param, input)
      if (texts.length === 0) {
        if (param.required) return null
      } else if (asSet(texts) !== asSet(defaults(param))) params.set(param.name, texts)
    }
    return params
  }

  private reportAfter(ms: number): void {
    window.clearTimeout(this.timer)
    this.timer = window.setTimeout(() => {
      const params = this.values()
      this.element.classList.toggle("incomplete", params === null)
      for (const field of this.fields) this.mark(field)
      if (params) this.onChange(params)
    }, ms)
  }

  /** Says what is wrong with the control's value. */
  private mark({ param, input, wrong }: Field): void {
    const text = wrongOf(param, input)
    const missing = param.required && text === null && read(param, input).length === 0
    input.setAttribute("aria-invalid", String(text !== null || missing))
    setText(wrong, text ?? (missing ? "required" : ""))
  }

  private field(param: Param, given: readonly string[] | undefined): HTMLElement {
    const id = uid(`param-${param.name}`)
    const notes = uid("about")
    const input = control(param, id, notes)
    const initial = param.type === "int" && param.required && param.min !== null ? [String(param.min)] : []
    write(param, input, given ?? (param.default === null ? initial : defaults(param)))
    const wrong = el("span", { class: "wrong", "aria-live": "polite" })
    this.fields.push({ param, input, wrong })
    const stepped = input instanceof HTMLInputElement && input.type === "number" && param.type === "int"
    return el(
      "div",
      { class: "field" },
      el("label", { for: id }, param.name),
      stepped ? stepper(param, input) : input,
      el("span", { class: "about", id: notes }, el("span", { class: "quiet" }, hint(param)), wrong),
    )
  }
}

/** Returns the reason why the control's value is invalid; null when it is valid or empty. */
function wrongOf(param: Param, input: Control): string | null {
  if (input.validity.badInput) return `not ${param.type === "int" ? "an int" : `a ${param.type}`}`
  return fault(param, read(param, input))
}

/** Returns what an empty control means, where it is not plain; empty otherwise. */
function hint(param: Param): string {
  const none = Array.isArray(param.default) && param.default.length === 0
  return isList(param) && none && param.enum ? "none chosen: all" : ""
}

/** Returns the texts of the parameter's default; none when there is no default. */
function defaults(param: Param): string[] {
  return param.default === null ? [] : [param.default].flat().map(String)
}

/** Returns a text that is the same for the same set of texts. */
function asSet(texts: readonly string[]): string {
  return JSON.stringify([...new Set(texts)].sort())
}

/** Returns the control for a parameter; the element with the id `notes` describes it. */
function control(param: Param, id: string, notes: string): Control {
  const list = isList(param)
  const type = valueType(param)
  const common = { id, name: param.name, required: param.required, "aria-describedby": notes }
  const choices = param.enum ?? (type === "bool" ? ["true", "false"] : null)
  if (choices) {
    const size = list ? Math.min(MOST_CHOICES, Math.max(2, choices.length)) : undefined
    const select = el("select", { ...common, multiple: list, size })
    // A single choice without a default can be empty when the parameter is optional.
    if (!list && !param.required && param.default === null) select.append(el("option", { value: "" }, "–"))
    for (const value of choices) select.append(el("option", { value: String(value) }, String(value)))
    return select
  }
  const attributes = { ...common, placeholder: defaults(param).join("\n"), autocomplete: "off" }
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
      return el("input", { ...attributes, type: "text", pattern: FORMS.uuid.source.slice(1, -1), size: 36 })
    case "text":
      return el("input", { ...attributes, type: "text" })
    case "bool":
      throw new Error("a bool is a choice")
  }
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
