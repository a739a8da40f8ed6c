// Opens COUNT EventSources of a URL, and prints a line of JSON whenever something about them may have changed:
// `rows` has the number of sources by the JSON of the rows that they show, `closed` the number that gave up for good.
// Usage: node --experimental-eventsource event_sources.mjs URL COUNT

const [url, count] = process.argv.slice(2);
const shown = [];
const sources = Array.from({ length: Number(count) }, (_, i) => {
  const source = new EventSource(url);
  const show = (rows) => {
    shown[i] = JSON.stringify(rows);
    report();
  };
  source.addEventListener("snapshot", (event) => show(JSON.parse(event.data).rows));
  source.addEventListener("delta", (event) => show(JSON.parse(event.data).upserts.map((upsert) => upsert.row)));
  source.onerror = report;
  return source;
});

function report() {
  const rows = {};
  for (const text of shown.filter(Boolean)) rows[text] = (rows[text] ?? 0) + 1;
  const closed = sources.filter((source) => source.readyState === EventSource.CLOSED).length;
  console.log(JSON.stringify({ rows, closed }));
}

process.stdin.on("end", () => process.exit()).resume();
