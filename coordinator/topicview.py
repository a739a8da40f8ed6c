"""One topic as etcd and the nodes' reports show it: the part of coordinator/view.py that is about a topic. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pollcast.services.clock import rfc3339
from pollcast.v1 import cluster_pb2, report_pb2

RATE_SECONDS = 5.0
"""Time over which rates are smoothed, in seconds."""

SEVERITY = {"live": 0, "stale": 1, "failed": 2}


@dataclass(frozen=True, slots=True)
class OwnerView:
    """The owner of a topic, by its owner key."""

    node: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Polled:
    """A poller's report of a topic, and the time `made` at which it was made, in microseconds by the poller's clock."""

    report: report_pb2.PolledTopic
    made: int


@dataclass(slots=True)
class TopicView:
    """A topic. `since` is the time of the last change of its owner, or of whether it has demand."""

    name: str
    since: float
    owner: OwnerView | None = None
    gateways: set[str] = field(default_factory=set)  # those with a demand key
    pin: str = ""  # the poller that an operator moved it to
    watched: dict[str, report_pb2.WatchedTopic] = field(default_factory=dict)  # by gateway
    polled: dict[str, Polled] = field(default_factory=dict)  # by poller
    polls_per_second: float = 0.0
    changes_per_second: float = 0.0
    unheard_since: float | None = None  # since when the owner reports that no gateway is attached

    @property
    def query(self) -> str:
        """The name of the topic's query."""
        return self.name.partition("?")[0]

    @property
    def listed(self) -> bool:
        """Whether the topic has an owner key or a demand key."""
        return self.owner is not None or bool(self.gateways)

    @property
    def report(self) -> report_pb2.PolledTopic | None:
        """The owner's report of the topic."""
        polled = self.polled.get(self.owner.node) if self.owner is not None else None
        return polled.report if polled is not None else None

    @property
    def clients(self) -> int:
        """The number of clients on all gateways."""
        return sum(map(self.clients_on, self.gateways))

    @property
    def cost(self) -> float:
        """The approximate time that its polls take of the database, in milliseconds per second."""
        report = self.report
        return report.poll_us / 1000 * self.polls_per_second if report is not None else 0.0

    @property
    def state(self) -> str:
        """The worst state that its owner and its gateways report; `stale` when it has no owner."""
        reported = [watched.state for gateway, watched in self.watched.items() if gateway in self.gateways]
        report = self.report
        reported.append(report.state if report is not None else "live" if self.owner is not None else "stale")
        return max(reported, key=lambda state: SEVERITY.get(state, 0))

    def clients_on(self, gateway: str) -> int:
        """Return the number of clients on a gateway that has demand: at least one, also before it reports it."""
        watched = self.watched.get(gateway)
        return max(1, watched.clients) if watched is not None else 1

    def info(self) -> cluster_pb2.TopicInfo:
        """Return the topic as the Cluster API shows it (docs/reference/grpc.md#cluster)."""
        clients = {gateway: self.clients_on(gateway) for gateway in sorted(self.gateways)}
        info = cluster_pb2.TopicInfo(
            topic=self.name,
            owner=self.owner.node if self.owner is not None else "",
            epoch=self.owner.epoch if self.owner is not None else 0,
            state=self.state,
            clients=sum(clients.values()),
            gateways=[cluster_pb2.GatewayClients(name=name, clients=count) for name, count in clients.items()],
        )
        if (report := self.report) is not None:
            info.interval_ms = report.interval_ms
            info.last_polled_at = rfc3339(report.last_polled_at) if report.last_polled_at else ""
            info.load.CopyFrom(
                cluster_pb2.TopicLoad(
                    polls_per_second=self.polls_per_second,
                    changes_per_second=self.changes_per_second,
                    rows=report.rows,
                    poll_ms=report.poll_us / 1000,
                )
            )
        return info

    def set_demand(self, gateway: str, wanted: bool, now: float) -> None:
        """Note whether the gateway has demand for the topic."""
        before = bool(self.gateways)
        if wanted:
            self.gateways.add(gateway)
        else:
            self.gateways.discard(gateway)
        if bool(self.gateways) != before:
            self.since, self.unheard_since = now, None

    def set_owner(self, owner: OwnerView | None, now: float) -> None:
        """Note the owner. A new one starts with rates of 0."""
        if owner != self.owner:
            self.owner, self.since, self.unheard_since = owner, now, None
            self.polls_per_second = self.changes_per_second = 0.0

    def add_poll_report(self, poller: str, report: report_pb2.PolledTopic, now: float, made: int) -> None:
        """Note a poller's report, made at `made` by the poller's clock, in microseconds."""
        before, self.polled[poller] = self.polled.get(poller), Polled(report, made)
        if self.owner is None or self.owner.node != poller:
            return
        seconds = (made - before.made) / 1e6 if before is not None else 0.0
        owned_for = (made - report.owned_since) / 1e6
        if (
            before is not None
            and before.report.epoch == report.epoch
            and before.report.owned_since == report.owned_since  # else its query has another definition: it began anew
            and seconds > 0
            and owned_for > RATE_SECONDS
        ):
            weight = 1 - math.exp(-seconds / RATE_SECONDS)
            polls, changes = report.polls - before.report.polls, report.changes - before.report.changes
            self.polls_per_second += weight * (polls / seconds - self.polls_per_second)
            self.changes_per_second += weight * (changes / seconds - self.changes_per_second)
        else:
            self.polls_per_second = report.polls / max(owned_for, 1.0)
            changes = max(report.changes - 1, 0)  # the first result is not a change
            self.changes_per_second = changes / max(owned_for, 1.0)
        if report.receivers or not self.gateways:
            self.unheard_since = None
        elif self.unheard_since is None:
            self.unheard_since = now
