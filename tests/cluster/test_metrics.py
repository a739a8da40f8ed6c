"""docs/reference/metrics.md, deploy/alerts.yml and deploy/grafana.json match the metrics that the services export."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import orjson
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from pollcast.coordinator.move_topic import move_topic
from tests.support.client import Client
from tests.support.promql import grouped, selectors
from tests.support.repository import ROOT
from tests.support.waiting import eventually
from tests.support.world import World

COMMON = ("catalogue", "coordination", "http", "loop")
NODES = {"gateway": "gateway-1", "poller": "poller-1", "coordinator": "coordinator-1"}
ROW = re.compile(r"\| `(pollcast_\w+)` \| (\w+) \|([^|]*)\| ([^|]+) \|")
NAME = re.compile(r"\bpollcast_\w+")
LEASE = ("--lease-ttl", "10")  # long enough that no lease expires while the machine stands still
EXPECTED = {"gateway_takeovers_total": 2, "coordinator_owned_topics": 1, "coordinator_nodes": 4}
TARGET = frozenset({"job", "instance"})
"""Labels that Prometheus adds to every series."""
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


@dataclass(frozen=True)
class Documented:
    """A row of docs/reference/metrics.md. `name` is the name in Prometheus, without the suffixes of a histogram."""

    section: str  # a role, or one of COMMON for the metrics of all roles
    name: str
    kind: str
    labels: frozenset[str]

    @property
    def series(self) -> set[str]:
        """The names of the metric's time series in Prometheus."""
        if self.kind == "counter":
            return {self.name}
        return {self.name + suffix for suffix in SUFFIXES[self.kind]}


def documented() -> Iterator[Documented]:
    """Yield all rows of the page, and assert that each has a description."""
    section = ""
    for line in (ROOT / "docs/reference/metrics.md").read_text().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ").split()[-1].lower()
        elif found := ROW.fullmatch(line):
            name, kind, labels, meaning = found.groups()
            assert meaning.strip(), name
            yield Documented(section, name, kind, frozenset(re.findall(r"`(\w+)`", labels)))


@dataclass(frozen=True)
class Scraped:
    """The metrics that the services export."""

    exported: dict[str, dict[str, tuple[str, frozenset[str]]]]  # role → name → kind and labels
    values: dict[str, set[str]]  # label → its values
    samples: dict[str, float]  # name of a sample → its value, summed over labels and services
    series: dict[str, list[dict[str, str]]]  # name of a sample → the labels of each, with those of Prometheus' target
    names: set[str]  # names of the samples that each metric has, if it has any


@pytest.fixture(scope="module")
async def scraped(module_world: World) -> AsyncIterator[Scraped]:
    """The metrics of a cluster with a topic that changes and has moved from one poller to another and back."""
    world = module_world
    for role, name in (("coordinator", "coordinator-1"), ("poller", "poller-1"), ("gateway", "gateway-1")):
        await world.start(role, name, *LEASE)  # type: ignore[arg-type]
    await world.start("poller", "poller-2", *LEASE)
    async with Client.open(await world.http("gateway-1")) as client:
        tick = "tick?n=1"
        await client.join(tick)
        await client.has_results(tick)
        await move_topic(world.etcd, world.keys, tick, "poller-2")
        epoch = await move_topic(world.etcd, world.keys, tick, "poller-1")
        await eventually(lambda: (client.seen[tick].version or (0, 0)) >= (epoch, 6))

        async def complete() -> Scraped | None:
            """Return the metrics once they include the effects of the latest events from etcd."""
            scraped = await _scrape(world)
            values = [scraped.samples[f"pollcast_{name}"] for name in EXPECTED]
            return scraped if values == list(EXPECTED.values()) else None

        found = await eventually(complete, what=f"the services export {EXPECTED}")
        assert found is not None
        yield found


async def _scrape(world: World) -> Scraped:
    """Read /metrics of one service of each role."""
    scraped = Scraped({}, {}, {}, {}, set())
    for role, node in NODES.items():
        text = await asyncio.to_thread(_get, f"http://{await world.http(node)}/metrics")
        families = list(text_string_to_metric_families(text))
        scraped.exported[role] = dict(_summary(family) for family in families if family.name.startswith("pollcast_"))
        for family in families:
            scraped.names.update(family.name + suffix for suffix in SUFFIXES.get(family.type, ()))
        for sample in (sample for family in families for sample in family.samples):
            target = {"job": "pollcast", "instance": node}
            scraped.series.setdefault(sample.name, []).append(sample.labels | target)
            scraped.samples[sample.name] = scraped.samples.get(sample.name, 0.0) + sample.value
            for label, value in sample.labels.items():
                scraped.values.setdefault(label, set()).add(value)
    return scraped


def _get(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        text: str = answer.read().decode()
    return text


def _summary(family: Metric) -> tuple[str, tuple[str, frozenset[str]]]:
    """Return the metric's name, and its kind with its labels."""
    labels = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
    return family.name + ("_total" if family.type == "counter" else ""), (family.type, labels)


def test_each_exported_metric_is_documented_and_each_documented_metric_is_exported(scraped: Scraped) -> None:
    for role, exported in scraped.exported.items():
        rows = {row.name: (row.kind, row.labels) for row in documented() if row.section in (role, *COMMON)}
        # A metric with labels that has no sample yet is exported without its labels.
        unused = {name for name, (_, labels) in exported.items() if not labels and rows.get(name, ("", labels))[1]}
        assert {name: summary for name, summary in rows.items() if name not in unused} == {
            name: summary for name, summary in exported.items() if name not in unused
        }, role


def test_no_label_value_is_a_topic(scraped: Scraped) -> None:
    assert scraped.values["query"] == {"stock", "tick"}
    assert scraped.values["source"] == {"default"}
    assert set(scraped.values) <= {
        "query", "outcome", "state", "event", "reason", "call", "kind", "role", "node", "version", "le", "hash",
        "generation", "source", "implementation", "major", "minor", "patchlevel",
    }  # fmt: skip
    assert not [value for values in scraped.values.values() for value in values if "?" in value]


def test_metrics_count_what_happened(scraped: Scraped) -> None:
    samples = scraped.samples
    assert samples["pollcast_gateway_sockets"] == 1
    assert samples["pollcast_gateway_messages_total"] >= 5
    assert samples["pollcast_gateway_message_bytes_total"] > 100
    assert samples["pollcast_poller_polls_total"] > 3
    assert samples["pollcast_poller_rows_total"] > 3
    assert 0 < samples["pollcast_poller_data_age_seconds"] < 5
    assert {name: samples[f"pollcast_{name}"] for name in EXPECTED} == EXPECTED
    assert 0 < samples["pollcast_session_margin_seconds"] <= 30  # the sum of three nodes
    assert samples["pollcast_session_opened_total"] == 3
    assert samples["pollcast_etcd_seconds_count"] > 10
    assert samples["pollcast_loop_longest_work_seconds"] > 0


@pytest.mark.parametrize(
    "file", ["deploy/alerts.yml", "deploy/grafana.json", "docs/howto/production.md", "docs/design/scale.md"]
)
def test_alerts_dashboard_and_pages_use_documented_names_only(file: str) -> None:
    known = {name for row in documented() for name in row.series}
    if file.endswith(".md"):  # pages name a histogram without a suffix
        known |= {row.name for row in documented()}
    used = {name for name in NAME.findall((ROOT / file).read_text()) if name != "pollcast_reader"}
    assert used <= known, used - known


@dataclass(frozen=True)
class Expression:
    """An expression of an alert or a panel, and the text beside it that names labels."""

    place: str
    text: str
    shown: str


def expressions() -> Iterator[Expression]:
    """Yield every expression of the alerts and of the dashboard."""
    for alert in (ROOT / "deploy/alerts.yml").read_text().split("- alert: ")[1:]:
        expression = re.search(r"^ +expr: (.+)$", alert, re.MULTILINE)
        summary = re.search(r'^ +summary: "(.+)"$', alert, re.MULTILINE)
        assert expression
        assert summary
        yield Expression(alert.split()[0], expression[1], " ".join(re.findall(r"\$labels\.(\w+)", summary[1])))
    for panel in orjson.loads((ROOT / "deploy/grafana.json").read_bytes())["panels"]:
        for target in panel.get("targets", ()):
            shown = " ".join(re.findall(r"\{\{ *(\w+) *\}\}", target.get("legendFormat", "")))
            yield Expression(panel["title"], target["expr"], shown)


def test_each_alert_and_each_panel_selects_series_that_a_real_run_exports(scraped: Scraped) -> None:
    labels = {name: row.labels | TARGET for row in documented() for name in row.series}
    scraped.series["up"] = [{"job": "pollcast", "instance": node} for node in NODES.values()]
    faults: list[tuple[str, object, str]] = []
    for expression in expressions():
        groups, shown = grouped(expression.text), set(expression.shown.split())
        for selector in selectors(expression.text):
            series = scraped.series.get(selector.name)
            if series is None:  # nothing has been counted under any label in this run
                used = groups | shown | {label for label, _, _ in selector.matchers}
                if selector.name not in scraped.names or not used <= labels[selector.name] | {"le"}:
                    faults.append((expression.place, selector, "is not exported, or lacks a label"))
            elif not any(selector.matches(each) and groups | shown <= each.keys() for each in series):
                faults.append((expression.place, selector, "matches no series with the labels that are used"))
        if groups and not shown <= groups:
            faults.append((expression.place, shown, "shows a label that is not grouped by"))
    assert faults == []


def test_each_alert_is_explained() -> None:
    alerts = re.findall(r"alert: (\w+)", (ROOT / "deploy/alerts.yml").read_text())
    page = (ROOT / "docs/howto/production.md").read_text()
    assert alerts
    assert [alert for alert in alerts if f"`{alert}`" not in page] == []


def test_each_panel_of_the_dashboard_has_a_title_and_expressions() -> None:
    dashboard = orjson.loads((ROOT / "deploy/grafana.json").read_bytes())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert all(target["expr"] for panel in panels for target in panel["targets"])
    assert all(panel["title"] for panel in panels)
