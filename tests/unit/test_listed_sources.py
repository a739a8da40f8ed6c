"""The databases of pollers in the coordinator's view: as pollers report them, until their entries are gone."""

from __future__ import annotations

from pollcast.coordinator.view import NodeName, Reported, View, ViewChanges
from pollcast.coordinator.watches import node_info
from pollcast.services.coordination.keys import Keys, NodeRecord, lease_hex
from pollcast.services.coordination.operations import KeyEvent, Kv
from pollcast.v1 import cluster_pb2, report_pb2

KEYS = Keys("/t")
P2: NodeName = ("poller", "p2")


def test_a_poller_is_listed_with_the_databases_of_its_last_report_and_named_when_they_change() -> None:
    view = View(KEYS)

    def registered(lease: int, pid: int) -> None:
        record = NodeRecord("p2", "poller", None, "p2:1", pid, "1", "then", lease_hex(lease), "ready")
        view.changed([KeyEvent(Kv(KEYS.node("poller", "p2"), record.encode(), lease, lease, lease))], 0.0)

    def reports(up: bool, stretch: float, *, partial: bool = True) -> ViewChanges:
        source = cluster_pb2.NodeSource(name="shop", up=up, stretch=stretch)
        report = report_pb2.NodeReport(node="p2", role="poller", partial=partial, sources=[source])
        return view.reported(P2, Reported(report, 1.0))

    def listed() -> list[tuple[str, bool, float]]:
        info = node_info(view.nodes[P2].record, view.sources(P2))
        return [(each.name, each.up, each.stretch) for each in info.sources]

    registered(lease=22, pid=7)
    assert listed() == []
    assert reports(True, 1.0, partial=False).nodes == {P2}
    assert not reports(True, 1.0).nodes
    assert reports(True, 2.5).nodes == reports(False, 2.5).nodes == {P2}
    assert listed() == [("shop", False, 2.5)]
    registered(lease=23, pid=8)  # started again
    assert listed() == []
