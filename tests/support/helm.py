"""The chart deploy/helm/pollcast, rendered by a real Helm."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.repository import ROOT

CHART = ROOT / "deploy" / "helm" / "pollcast"

NAMESPACE = "shop"
"""The namespace that the chart is rendered for."""

ROLES = ("gateway", "poller", "coordinator")

Manifest = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Helm, the one on the PATH or else the one that `make .venv/bin/helm` installs."""
    program = shutil.which("helm") or str(Path(sys.executable).with_name("helm"))
    assert Path(program).exists(), "Helm is missing: run `make .venv/bin/helm`"
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def rendered(*flags: str) -> list[Manifest]:
    """Return the chart's manifests with these flags of `helm template`."""
    done = helm("template", "live", str(CHART), "--namespace", NAMESPACE, *flags)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.load_all(done.stdout, yaml.CSafeLoader) if manifest]


@dataclass(frozen=True)
class Release:
    """The manifests of one set of values."""

    manifests: list[Manifest]

    def of(self, kind: str) -> dict[str, Manifest]:
        """Return the manifests of a kind by their names."""
        return {m["metadata"]["name"]: m for m in self.manifests if m["kind"] == kind}

    def workloads(self) -> dict[str, Manifest]:
        """Return the Deployments and StatefulSets by their component: a role, or `etcd`."""
        found = [*self.of("Deployment").values(), *self.of("StatefulSet").values()]
        return {each["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]: each for each in found}

    def pod(self, role: str) -> Manifest:
        """Return the specification of the pods of a component."""
        pod: Manifest = self.workloads()[role]["spec"]["template"]["spec"]
        return pod

    def container(self, role: str) -> Manifest:
        """Return the container of a component."""
        (container,) = self.pod(role)["containers"]
        return dict(container)

    def selected(self, labels: Mapping[str, Any]) -> set[str]:
        """Return the components whose pods a selector selects: that of a Service, or `matchLabels` and so on."""
        wanted = labels.get("matchLabels", {} if "matchExpressions" in labels else labels)
        found = set()
        for role, workload in self.workloads().items():
            has = workload["spec"]["template"]["metadata"]["labels"]
            if all(has.get(name) == value for name, value in wanted.items()) and all(
                has.get(each["key"]) not in each["values"] for each in labels.get("matchExpressions", [])
            ):
                found.add(role)
        return found

    def port(self, role: str, name: str) -> int:
        """Return the number of a named port of a component's container."""
        return {each["name"]: int(each["containerPort"]) for each in self.container(role)["ports"]}[name]

    def mounts(self, role: str) -> Iterator[tuple[str, Manifest, Manifest]]:
        """Yield the path, the mount and the volume of each mount of a component's container."""
        volumes = {volume["name"]: volume for volume in self.pod(role)["volumes"]}
        for mount in self.container(role)["volumeMounts"]:
            yield mount["mountPath"], mount, volumes[mount["name"]]
