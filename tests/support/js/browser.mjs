// The parts of a browser that phoenix.js needs for long polling. Import it before phoenix.js.
// Errors in callbacks end the process, as they would end up nowhere in a browser: phoenix.js would be stuck.
globalThis.self = globalThis

globalThis.XMLHttpRequest = class {
  #headers = {}
  #controller = new AbortController()

  open(method, url) {
    this.#headers = {}
    this.method = method
    this.url = url
  }

  setRequestHeader(name, value) {
    this.#headers[name] = value
  }

  abort() {
    this.#controller.abort()
  }

  async send(body) {
    const timer = this.timeout && setTimeout(() => this.#controller.abort("timeout"), this.timeout)
    const {signal} = this.#controller
    let text = null
    try {
      const response = await fetch(this.url, {method: this.method, headers: this.#headers, body, signal})
      text = await response.text()
    } catch { /* the connection failed, or was given up */ }
    clearTimeout(timer)
    if (text !== null) {
      this.readyState = 4
      this.responseText = text
      this.onreadystatechange?.()
    } else if (signal.reason === "timeout") this.ontimeout?.()
    else if (!signal.aborted) this.onerror?.()
  }
}
