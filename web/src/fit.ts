/** The texts of large figures that fit into their place. Pure, but for `emsOf`, which measures letters. */
import { fixed } from "./columns"

/** Numbers of significant digits of a shortened number, in the order in which they are tried. */
const SIGNIFICANT = [4, 3, 2]
const COMPACT = SIGNIFICANT.map((digits) => {
  return new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: digits })
})
const SCIENTIFIC = new Intl.NumberFormat("en", { notation: "scientific", maximumSignificantDigits: 2 })

/** Returns the texts of a number, the longest first: with all its digits and this many decimals, then shortened. */
export function formsOf(value: number | bigint, decimals: number): string[] {
  const full = fixed(value, typeof value === "bigint" ? 0 : decimals)
  const shorter = [...COMPACT.map((format) => format.format(value)), SCIENTIFIC.format(value)]
  return [full, ...shorter.filter((text, at) => text.length < Math.min(full.length, ...shorter.slice(0, at).map(({ length }) => length)))]
}

/** Returns the first of these texts that is at most this wide, or else the last; `widthOf` returns a text's width. */
export function fitting(forms: readonly string[], most: number, widthOf: (text: string) => number): string {
  return forms.find((form) => widthOf(form) <= most) ?? forms.at(-1) ?? ""
}

const widths = new Map<string, number>()

/** Returns a function that returns a text's width in multiples of its letter size, in the font of an element. */
export function emsOf(element: HTMLElement): (text: string) => number {
  const { fontFamily, fontWeight } = getComputedStyle(element)
  const context = document.createElement("canvas").getContext("2d")
  const size = 100
  return (text) => {
    const same = text.replace(/\d/g, "0") // figures are tabular: every digit is as wide
    const id = `${fontWeight} ${same}`
    let width = widths.get(id)
    if (width === undefined) {
      if (context) context.font = `${fontWeight} ${size}px ${fontFamily}`
      width = (context?.measureText(same).width ?? same.length * size) / size
      if (widths.size > 1000) widths.clear()
      widths.set(id, width)
    }
    return width
  }
}
