"""The alerts in deploy/: promtool runs their tests, and each of them has one.

promtool is a program of the system (Debian: part of the package prometheus). `make test` reports it and leaves this
file out where it is missing. tests/cluster/test_metrics.py compares the alerts with what a real run exports.
"""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.support.promql import Selector, grouped, selectors
from tests.support.repository import ROOT

DEPLOY = ROOT / "deploy"


def promtool(*arguments: str) -> str:
    """Run promtool in the folder of the alerts, and return its output."""
    program = shutil.which("promtool")
    assert program is not None, "promtool is not installed (Debian: apt install prometheus)"
    done = subprocess.run([program, *arguments], cwd=DEPLOY, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_alert_is_valid() -> None:
    alerts = re.findall(r"alert: (\w+)", (DEPLOY / "alerts.yml").read_text())
    assert f"{len(alerts)} rules found" in promtool("check", "rules", "alerts.yml")


def test_every_alert_is_silent_while_all_is_well_and_fires_when_it_should() -> None:
    alerts = re.findall(r"alert: (\w+)", (DEPLOY / "alerts.yml").read_text())
    tests = (DEPLOY / "alerts.test.yml").read_text().partition("tests:\n")[2].split("  - name: ")
    silent = {name for test in tests for name in re.findall(r"alertname: (\w+), exp_alerts: \[\]", test)}
    fires = {name for test in tests for name in re.findall(r"alertname: (\w+)\n +exp_alerts:\n +- exp_labels", test)}
    assert set(alerts) - silent == set()
    assert set(alerts) - fires == set()
    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yml")


@pytest.mark.parametrize(
    ("expression", "selected", "labels"),
    [
        ("sum(a) != 1", ["a"], set()),
        ("max by (query) (a) > 30 + 120 * max by (query) (min_over_time(b[1d]))", ["a", "b"], {"query"}),
        ('a{x="1", y!="2"} == 0 and on (instance, query) b > 0', ["a", "b"], {"instance", "query"}),
        ("histogram_quantile(0.99, sum by (le) (rate(a_bucket[$__rate_interval])))", ["a_bucket"], {"le"}),
        ("-rate(a_total[5m])", ["a_total"], set()),
    ],
)
def test_the_selectors_of_an_expression_are_found(expression: str, selected: list[str], labels: set[str]) -> None:
    assert [selector.name for selector in selectors(expression)] == selected
    assert grouped(expression) == labels


def test_a_selector_matches_the_series_that_have_its_labels() -> None:
    (selector,) = selectors('up{job=~"pollcast.*", state!="live"}')
    assert selector == Selector("up", (("job", "=~", "pollcast.*"), ("state", "!=", "live")))
    assert selector.matches({"job": "pollcast", "state": "stale"})
    assert not selector.matches({"job": "pollcast", "state": "live"})
    assert not selector.matches({"job": "other", "state": "stale"})
    assert not selector.matches({"job": "pollcast"})
