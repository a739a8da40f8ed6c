"""The examples of channels.md, http.md and grpc.md in docs/reference, compared with what a real cluster sends.

The cluster runs the shop of docs/reference/catalogue.md, and one story is played on it: clients of every kind watch one
topic, its rows change, its table is locked and renamed, a gateway drains. Messages of clients are sent as the manual
shows them. Messages of the cluster must equal the manual's, but for versions, times and the like
(`tests.support.observed.masked`).
"""

from __future__ import annotations

import asyncio
import difflib
import json
from typing import Any

import grpc
import grpc.aio
import psycopg
import pytest

from pollcast.services.local.postgres_server import PostgresServer
from pollcast.v1 import (
    cluster_pb2_grpc,
    live_pb2_grpc,
)
from tests.support.observed import Observed, events, masked
from tests.support.scenes_of_clients import changes_and_trouble, everybody_else, first_client, members
from tests.support.scenes_of_errors import (
    refused_messages,
    refused_requests,
    too_many_connections,
    what_takes_ten_seconds,
)
from tests.support.scenes_of_operators import (
    draining,
    gateway_without_etcd,
    health,
    more_members_than_are_listed,
    operators,
    reports,
    starting,
)
from tests.support.shop import Socket, shop, token
from tests.support.stage import EXAMPLES, Stage


@pytest.fixture(scope="module")
async def observed(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Play the story and return the messages by the name of their example."""
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute("create database reference_examples")
    folder = tmp_path_factory.mktemp("reference")
    found = Observed(EXAMPLES)
    url = postgres_server.url_of("reference_examples")
    with shop(folder, url) as running, gateway_without_etcd(folder) as unready:
        async with (
            asyncio.TaskGroup() as tasks,
            Socket.open(running.cluster.gateway(0), token()) as socket,
            grpc.aio.insecure_channel(running.grpc("gateway-1")) as gateway,
            grpc.aio.insecure_channel(running.grpc("coordinator-1")) as coordinator,
        ):
            live, cluster = live_pb2_grpc.LiveQueryStub(gateway), cluster_pb2_grpc.ClusterStub(coordinator)
            stage = Stage(running, found, tasks, socket, live, cluster)
            slow = [tasks.create_task(what_takes_ten_seconds(stage)), tasks.create_task(starting(stage, unready))]
            for scene in (
                first_client,
                everybody_else,
                members,
                changes_and_trouble,
                refused_messages,
                refused_requests,
                health,
                more_members_than_are_listed,
                operators,
                reports,
                draining,
                too_many_connections,
            ):
                await scene(stage)
            await asyncio.wait(slow)
            for call in (stage.changes, stage.watch, stage.feed):
                call.cancel()
    return found.messages


@pytest.mark.parametrize("page", ["channels", "http", "grpc"])
async def test_each_example_of_a_page_is_what_a_cluster_sends(page: str, observed: dict[str, Any]) -> None:
    wrong = []
    for name, example in EXAMPLES.items():
        if not name.startswith(f"{page}."):
            continue
        if name not in observed:
            wrong.append(f"{name}: no scene of the story observes it")
            continue
        shown = masked(events(example.text) if example.language == "text" else example.json())
        sent = masked(observed[name])
        if shown != sent:
            wrong.append(f"{name}\n{difference(shown, sent)}")
    if wrong:
        pytest.fail(f"{len(wrong)} examples of {page}.md differ:\n" + "\n\n".join(wrong), pytrace=False)


def difference(shown: Any, sent: Any) -> str:
    """Return how the cluster's message differs from the manual's, line by line."""
    manual, cluster = (json.dumps(each, indent=1, sort_keys=True).splitlines() for each in (shown, sent))
    return "\n".join(difflib.unified_diff(manual, cluster, "the manual", "the cluster", lineterm="", n=2))
