"""The tables of the benchmark of size: one size in detail, and all sizes in a row each."""

from __future__ import annotations

from collections.abc import Sequence

from bench import table
from bench.scale.cluster import Size
from bench.scale.measure import Result

MIB = 2**20

ROLES = ("poller-1", "gateway-1", "coordinator-1")


def title(size: Size) -> str:
    """Return the size in words."""
    return f"{size.topics:,} topics × {size.pollers} pollers × {size.gateways} gateways"


def show_one(result: Result) -> None:
    """Print the measurements of one size."""
    size = result.size
    phases = [(name, getattr(result, name)) for name in ("start", "rest", "churn", "join", "kill")]
    table.show(
        f"{title(size)} ({size.real_pollers} and {size.real_gateways} of them real, the others {size.kind})",
        ("", "seconds", "changes of keys", "proposals", "watch events", "MB from etcd", "messages of watches"),
        [
            (name, p.seconds, int(p.changes), int(p.etcd["proposals"]), int(p.etcd["events"]), p.etcd["sent"] / 1e6,
             int(p.etcd["watch answers"]))
            for name, p in phases if p is not None
        ],
    )  # fmt: skip
    head = ["", "topics", "CPU s to start", "stop ms", "rest % of a core", "stop ms", "µs per change", "stop ms"]
    table.show("processes", [*head, "RSS MiB", "beyond empty"], [_process(result, name) for name in result.start.cpu])
    views = result.views
    print(
        f"the coordinator: first page {views.page[0] * 1e3:.0f} ms of CPU in {views.page[1] * 1e3:.0f} ms; all topics "
        f"{views.listing[0] * 1e3:.0f} ms of CPU in {views.listing[1]:.2f} s; `top` {100 * views.top:.1f} % of a core "
        f"and {views.top_bytes / 1e3:.1f} KB/s"
    )
    if result.joined:
        table.show(
            f"a poller joins, whose share is {size.topics / (size.pollers + 1):.0f}",
            ("seconds after", "its topics", "least", "most"),
            result.joined,
        )
    if result.kill is not None:
        print(f"a poller with {result.killed[0]:,} topics killed: all owned after {result.killed[1] * 1000:.0f} ms")
    print(
        f"every topic owned after {result.owned_seconds:.1f} s, with results after {result.results_seconds:.1f} s; "
        f"sessions lost: {result.lost}; watchers: {result.watchers:.0f}\n",
        flush=True,
    )


def _process(result: Result, name: str) -> list[object]:
    start, rest, churn = result.start, result.rest, result.churn
    row: list[object] = [name, result.owned_by.get(name, ""), start.cpu[name], start.stops.get(name, 0.0) * 1e3]
    row += [100 * rest.cpu[name] / rest.seconds, rest.stops.get(name, 0.0) * 1e3]
    row += [""] * 2 if churn is None else [result.per_change(name), churn.stops.get(name, 0.0) * 1e3]
    held = result.rss.get(name, 0) / MIB
    return [*row, held, held - result.empty.get(name, 0) / MIB]


def show_all(results: Sequence[Result]) -> None:
    """Print all sizes, a row each."""
    if not results:
        return
    roles = ", ".join(role.partition("-")[0] for role in ROLES)
    head = ["topics × pollers × gateways", "owned s", "results s", "CPU s", "sessions lost", "proposals"]
    head += ["watch events", "MB from etcd"]
    rows = []
    for result in results:
        etcd = result.start.etcd
        row: list[object] = [f"{result.size.topics:,} × {result.size.pollers} × {result.size.gateways}"]
        row += [result.owned_seconds, result.results_seconds, sum(result.start.cpu.values()), result.lost]
        rows.append([*row, int(etcd["proposals"]), int(etcd["events"]), etcd["sent"] / 1e6])
    table.show("From nothing to every topic owned", head, rows)
    head = ["topics × pollers × gateways", "own and served", "rest %", "etcd %", "µs per change", "MiB beyond empty"]
    rows = []
    for result in results:
        names = [name for name in ROLES if name in result.start.cpu]
        rest = result.rest
        served = len(result.size.served_by(0))
        row = [f"{result.size.topics:,} × {result.size.pollers} × {result.size.gateways}"]
        row += [f"{result.owned_by.get('poller-1', 0):,}, {served:,}"]
        row += [_three([100 * rest.cpu[name] / rest.seconds for name in names]), 100 * rest.cpu["etcd"] / rest.seconds]
        row += [_three([result.per_change(name) for name in names], 0)]
        row += [_three([(result.rss[name] - result.empty[name]) / MIB for name in names], 0)]
        rows.append([*row, _three([result.start.stops[name] * 1e3 for name in names], 0)])
    table.show(f"Processes: {roles}", [*head, "longest stop at start, ms"], rows)


def _three(values: Sequence[float], digits: int = 1) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)
