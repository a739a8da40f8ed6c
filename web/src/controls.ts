/**
 * A form with a control for each parameter of a query, chosen by the parameter's type.
 *
 * It reports each change that leads to a complete and valid set of values. An empty parameter takes its default.
 */
import type { Param, Query } from "./api"
import { el } from "./dom"

/** The form of one query; `onChange` receives the values that differ from the defaults. */
export class Controls {
  readonly element: HTMLFormElement
  private readonly inputs = new Map<string, HTMLInputElement | HTMLSelectElement>()
  private timer = 0

  constructor(
    private readonly query: Query,
    params: ReadonlyMap<string, string>,
    private readonly onChange: (params: Map<string, string>) => void,
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
  values(): Map<string, string> | null {
    const params = new Map<string, string>()
    for (const param of this.query.params) {
      const input = this.inputs.get(param.name)!
      if (!input.checkValidity()) return null
      const text = read(param, input)
      if (text === "") {
        if (param.required) return null
      } else if (param.default === null || text !== String(param.default)) {
        params.set(param.name, text)
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

  private field(param: Param, given: string | undefined): HTMLElement {
    const id = `param-${param.name}`
    const input = control(param, id)
    write(
      param,
      input,
      given ?? String(param.default ?? (param.type === "int" && param.required ? (param.min ?? "") : "")),
    )
    this.inputs.set(param.name, input)
    const label = el("label", { for: id }, param.name)
    if (input instanceof HTMLInputElement && input.type === "number" && param.type === "int") {
      return el("div", { class: "field" }, label, stepper(param, input))
    }
    return el("div", { class: "field" }, label, input)
  }
}

/** Returns the control for a parameter. */
function control(param: Param, id: string): HTMLInputElement | HTMLSelectElement {
  if (param.enum) {
    const select = el("select", { id, name: param.name, required: param.required })
    for (const value of param.enum) select.append(el("option", { value: String(value) }, String(value)))
    return select
  }
  if (param.type === "bool") {
    const select = el("select", { id, name: param.name, required: param.required })
    select.append(el("option", { value: "true" }, "true"), el("option", { value: "false" }, "false"))
    return select
  }
  const attributes: Record<string, string | number | boolean | undefined> = {
    id,
    name: param.name,
    required: param.required,
    placeholder: param.default === null ? "" : String(param.default),
    autocomplete: "off",
  }
  const bounds = { min: param.min ?? undefined, max: param.max ?? undefined }
  switch (param.type) {
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
        pattern: "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
        size: 36,
      })
    case "text":
      return el("input", { ...attributes, type: "text", maxlength: param.max_length ?? 256 })
  }
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

/** Returns the control's value as a topic spells it. */
function read(param: Param, input: HTMLInputElement | HTMLSelectElement): string {
  if (param.type !== "timestamptz" || input.value === "") return input.value
  return new Date(input.value).toISOString().replace(/\.000Z$/, "Z") // the control holds local time
}

/** Sets the control to a value as a topic spells it. */
function write(param: Param, input: HTMLInputElement | HTMLSelectElement, text: string): void {
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
