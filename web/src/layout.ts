/**
 * The places of a wall's tiles on a grid of twelve columns. Tiles never overlap, and each is as far up as the others
 * leave room. Pure: no I/O.
 */

/** The place of a tile, in columns and rows of the grid: its left upper corner and its size. */
export interface Place {
  x: number
  y: number
  w: number
  h: number
}

/** Number of columns of the grid. */
export const COLUMNS = 12
/** Number of rows of the highest tile. */
export const MOST_ROWS = 24
/** Number of tiles of the largest wall. */
export const MOST_TILES = 40
/** Lowest row in which a tile is looked for, before tiles move up. */
const DEEPEST = 999
/** Size of a new tile, and the smallest one. */
export const NEW = { w: 6, h: 5 }
export const LEAST = { w: 2, h: 2 }

/** Returns the place with a possible size, within the columns. */
export function clamp<P extends Place>(place: P): P {
  const within = (value: number, least: number, most: number): number =>
    Math.max(least, Math.min(most, Number.isFinite(value) ? Math.round(value) : least))
  const w = within(place.w, LEAST.w, COLUMNS)
  const h = within(place.h, LEAST.h, MOST_ROWS)
  return { ...place, w, h, x: within(place.x, 0, COLUMNS - w), y: within(place.y, 0, DEEPEST) }
}

/**
 * Returns the tiles in the given order, at places where they do not overlap. Tiles in the way of others are pushed down;
 * the tile with the index `kept` is pushed by none.
 */
export function settle<P extends Place>(tiles: readonly P[], kept = -1): P[] {
  const places = tiles.map(clamp)
  const order = places.map((_, at) => at).sort((a, b) => before(places[a]!, places[b]!) || a - b)
  const first = kept in places ? [kept, ...order.filter((at) => at !== kept)] : order
  const placed: P[] = []
  for (const at of first) {
    const tile = places[at]!
    for (let hit = hits(tile, placed); hit; hit = hits(tile, placed)) tile.y = hit.y + hit.h
    placed.push(tile)
  }
  const risen: P[] = []
  for (const tile of [...placed].sort(before)) {
    while (tile.y > 0 && !hits({ ...tile, y: tile.y - 1 }, risen)) tile.y -= 1
    risen.push(tile)
  }
  return places
}

/** Returns the tiles after one was moved or resized. */
export function change<P extends Place>(tiles: readonly P[], at: number, by: Partial<Place>): P[] {
  const changed = tiles.map((tile, index) => (index === at ? clamp({ ...tile, ...by }) : tile))
  return settle(changed, at)
}

/** Returns the first free place for a tile of this size. */
export function free(tiles: readonly Place[], { w, h }: { w: number; h: number } = NEW): Place {
  for (let y = 0; ; y += 1) {
    for (let x = 0; x + w <= COLUMNS; x += 1) if (!hits({ x, y, w, h }, tiles)) return { x, y, w, h }
  }
}

/** Returns the number of rows that the tiles take. */
export function depth(tiles: readonly Place[]): number {
  return Math.max(1, ...tiles.map(({ y, h }) => y + h))
}

/** Compares two places in reading order. */
export function before(a: Place, b: Place): number {
  return a.y - b.y || a.x - b.x
}

function hits<P extends Place>(tile: Place, others: readonly P[]): P | undefined {
  return others.find(
    (other) =>
      tile.x < other.x + other.w && other.x < tile.x + tile.w && tile.y < other.y + other.h && other.y < tile.y + tile.h,
  )
}
