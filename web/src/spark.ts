/** A small line of the latest values, without axes. */
import { colour } from "./palette"

/** Draws the values over the whole canvas, whose size in CSS pixels is given; the line is at least `fewest` steps long. */
export function drawSpark(
  canvas: HTMLCanvasElement,
  values: readonly number[],
  size: { width: number; height: number },
  { low = Math.min(...values), fewest = 1 } = {},
): void {
  const context = canvas.getContext("2d")
  if (!context) return
  const { width, height } = size
  canvas.width = width * devicePixelRatio // setting the size clears the canvas
  canvas.height = height * devicePixelRatio
  context.scale(devicePixelRatio, devicePixelRatio)
  const span = Math.max(...values) - low || 1
  const step = width / Math.max(values.length - 1, fewest)
  context.strokeStyle = colour("--accent")
  context.lineWidth = 2
  context.beginPath()
  values.forEach((value, at) => {
    const x = at * step
    const y = height - 3 - ((value - low) / span) * (height - 6)
    if (at === 0) context.moveTo(x, y)
    else context.lineTo(x, y)
  })
  context.stroke()
}
