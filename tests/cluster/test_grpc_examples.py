"""The gRPC examples of docs/howto/python-consumer.md, copied from the page and run on a cluster. The page calls grpcurl
for some of them; here those calls are made with the same means: server reflection, JSON, and no generated code."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.support.client import Client
from tests.support.cluster import Cluster, cluster
from tests.support.repository import ROOT
from tests.support.waiting import eventually

PAGE = ROOT / "docs" / "howto" / "python-consumer.md"
SECTION = PAGE.read_text().partition("\n## gRPC\n")[2].partition("\n## ")[0]

CATALOG = """
[queries.richest_tellers]
sql = "select n as teller, (extract(epoch from now()) * 10)::bigint as balance from generate_series(1, %(limit)s) n"
key = ["teller"]
interval = "100ms"
[queries.richest_tellers.params]
limit = "int"
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("grpc-examples")
    (folder / "catalog.toml").write_text(CATALOG)
    with cluster(folder / "data", "--catalog", str(folder / "catalog.toml"), "--no-demo") as up:
        yield up


async def test_the_python_example_prints_what_changes(up: Cluster) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program.replace('"GRPC"', repr(up.grpc("gateway"))), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        lines: list[str] = []
        async with asyncio.timeout(30):
            while len(lines) < 2:
                line = (await process.stdout.readline()).decode()
                assert line
                lines += [] if line.startswith(("live", "stale")) else [line]
    finally:
        process.kill()
        await process.wait()
    first = re.match(r"(\d+)-(\d+) b'\{\"teller\":1,.*\}' b'\{\"teller\":2,", lines[0])
    second = re.match(r"(\d+)-(\d+) \(0, b'\{\"teller\":1,", lines[1])
    assert first is not None
    assert second is not None
    assert (second[1], int(second[2])) == (first[1], int(first[2]) + 1)


def grpcurl(up: Cluster, command: str) -> dict[str, Any]:
    """Return the answer to the command, as JSON."""
    words = shlex.split(command)
    assert words[:2] == ["grpcurl", "-plaintext"]
    sent = words[words.index("-d") + 1] if "-d" in words else "{}"
    where, method = words[-2:]
    service_name, _, method_name = method.partition("/")
    target = {"GRPC": up.grpc("gateway"), "CLUSTER": up.grpc("coordinator")}[where]
    with grpc.insecure_channel(target) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        described = pool.FindServiceByName(service_name).FindMethodByName(method_name)
        request = json_format.Parse(sent, GetMessageClass(described.input_type)())
        answer_type = GetMessageClass(described.output_type)
        call = channel.unary_unary(
            f"/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer_type.FromString,
        )
        answer: dict[str, Any] = json_format.MessageToDict(call(request, timeout=15))
        return answer


async def test_the_grpcurl_examples_work_by_reflection_alone(up: Cluster) -> None:
    get, list_topics, move = re.findall(r"^    (grpcurl .*)$", SECTION, re.MULTILINE)
    async with Client.open(f"http://{up.gateway()}") as client:
        await client.join("richest_tellers?limit=3")
        snapshot = await asyncio.to_thread(grpcurl, up, get)
        assert (len(snapshot["rows"]), snapshot["key"]) == (3, ["teller"])

        async def listed() -> bool:
            topics = (await asyncio.to_thread(grpcurl, up, list_topics)).get("topics", [])
            return [topic["topic"] for topic in topics] == ["richest_tellers?limit=3"]

        await eventually(listed)
        assert int((await asyncio.to_thread(grpcurl, up, move))["epoch"]) > 0

        async def moved() -> bool:
            topics = (await asyncio.to_thread(grpcurl, up, list_topics))["topics"]
            return bool(topics[0]["owner"] == "poller-2")

        await eventually(moved)
