// Builds dist/: npm runs this before `npm pack` and when the folder itself is installed (`npm install <path>/clients/js`).
// In a fresh clone neither TypeScript nor the types of phoenix are there yet, so they are installed first.
import { execSync } from "node:child_process"
import { rmSync } from "node:fs"
import { createRequire } from "node:module"

const here = import.meta.dirname
const { resolve } = createRequire(import.meta.url)
const run = (command) => execSync(command, { cwd: here, stdio: ["ignore", process.stderr, process.stderr] })

function installed(...names) {
  try {
    return names.every((name) => resolve(name))
  } catch {
    return false
  }
}

if (!installed("typescript", "phoenix", "@types/phoenix/package.json", "react", "vue", "@tanstack/db")) {
  run("npm install --ignore-scripts --include=dev --no-save --no-audit --no-fund")
}
rmSync(new URL("dist", import.meta.url), { recursive: true, force: true }) // files of modules that are gone
run("npm run --silent build")
