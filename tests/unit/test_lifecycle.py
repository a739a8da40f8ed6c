"""Signals to a process that runs a service, as services/process/lifecycle.py takes them."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pollcast.services.process.delay import Delay

SERVICE = """
import asyncio
import os
import threading
from pollcast.services.process import lifecycle, logs
from pollcast.services.process.delay import Delay

logs.configure()
threading.Timer(60, os._exit, [3]).start()  # whoever waits for a line in vain sees the end
lifecycle.DUPLICATE_SECONDS = {duplicate}
delay = Delay()

async def run(stop):
    print("serving", flush=True)
    await stop.wait()
    print("stopping", flush=True)
    await delay.wait({seconds})
    print("draining", flush=True)
    await asyncio.Event().wait()

lifecycle.main(run, lambda: print("reading", flush=True), delay.end)
"""


class Service:
    """A process that runs a service which waits before its drain, and whose drain never ends."""

    def __init__(self, seconds: float, duplicate: float) -> None:
        code = SERVICE.format(seconds=seconds, duplicate=duplicate)
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, "-P", "-c", code], stdout=pipe, stderr=pipe, text=True)
        self.says("serving")

    def says(self, word: str) -> None:
        """Wait for the next line of the service, which is this word."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word

    def logs(self, *words: str) -> None:
        """Wait for the next line of the log, which has these words."""
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert all(word in line for word in words), line


@pytest.fixture
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service with the parameters `seconds` and `duplicate`."""
    running = Service(*request.param)
    with running.process:
        yield running
        running.process.kill()


@pytest.mark.parametrize("service", [(3600, 0)], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_delay_and_a_third_one_the_process(service: Service, number: signal.Signals) -> None:
    for harmless in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
        service.process.send_signal(harmless)
        service.logs(harmless.name, "a signal without effect")
    service.process.send_signal(signal.SIGHUP)
    service.says("reading")
    service.process.send_signal(signal.SIGTERM)
    service.says("stopping")
    service.process.send_signal(number)
    service.says("draining")
    service.process.send_signal(number)
    assert service.process.wait(60) == 130


@pytest.mark.parametrize("service", [(3600, 3600)], indirect=True)
def test_a_signal_that_make_or_a_terminal_sends_twice_counts_once(service: Service) -> None:
    service.process.send_signal(signal.SIGQUIT)
    service.says("stopping")
    service.process.send_signal(signal.SIGINT)
    service.process.send_signal(signal.SIGUSR1)
    service.logs("SIGQUIT", "stopping")
    service.logs("SIGUSR1")
    assert service.process.poll() is None


async def test_a_delay_is_ended_once_and_only_while_somebody_waits() -> None:
    delay = Delay()
    assert not delay.end()
    await delay.wait(0)
    waiting = asyncio.create_task(delay.wait(3600))
    await asyncio.sleep(0)
    assert [delay.end(), delay.end()] == [True, False]
    await waiting
    assert not delay.end()
