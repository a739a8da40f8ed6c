"""The chart deploy/helm/pollcast renders manifests that Kubernetes accepts, and that agree with the services."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from pollcast.gateway.closing import DRAIN_SECONDS
from pollcast.gateway.longpoll import PATH as LONGPOLL_PATH
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.process.addresses import OWN_PATHS
from pollcast.services.process.settings import (
    CoordinatorSettings,
    EtcdSettings,
    GatewaySettings,
    PollerSettings,
    load,
    unknown_variables,
)
from tests.support.certificates import Authority
from tests.support.helm import CHART, NAMESPACE, ROLES, Manifest, Release, helm, rendered
from tests.support.repository import ROOT

VALUES = {"default": ()} | {file.stem: ("--values", str(file)) for file in sorted(CHART.glob("ci/*-values.yaml"))}

KUBERNETES = ("1.27", "1.37")
"""The oldest version that Chart.yaml allows, and the newest whose schemas are at hand."""

OPERATORS = "monitoring.coreos.com/v1"
"""The API of the Prometheus operator, which is not part of Kubernetes."""

KINDS: dict[str, type[EtcdSettings]] = {
    "gateway": GatewaySettings,
    "poller": PollerSettings,
    "coordinator": CoordinatorSettings,
}


@pytest.fixture(scope="module")
def releases() -> dict[str, Release]:
    """The manifests of each set of values."""
    return {name: Release(rendered(*flags)) for name, flags in VALUES.items()}


@pytest.fixture(params=VALUES)
def release(request: pytest.FixtureRequest, releases: dict[str, Release]) -> Release:
    """The manifests of one set of values."""
    return releases[request.param]


@pytest.fixture
def production(releases: dict[str, Release]) -> Release:
    """The manifests with everything switched on."""
    return releases["production-values"]


@pytest.mark.parametrize("name", VALUES)
def test_helm_finds_no_fault_in_the_chart(name: str) -> None:
    done = helm("lint", "--strict", str(CHART), *VALUES[name])
    assert done.returncode == 0, done.stdout + done.stderr


def test_kubernetes_knows_every_field(release: Release) -> None:
    allowed = yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"]
    assert allowed == f">={KUBERNETES[0]}.0-0"
    for manifest in release.manifests:
        for version in KUBERNETES if manifest["apiVersion"] != OPERATORS else ():
            kubernetes_validate.validate(manifest, version, strict=True)
    names = [(m["kind"], m["metadata"]["name"]) for m in release.manifests]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("gateway.replica=3", "'replica' not allowed"),
        ("auth.mode=nothing", "/auth/mode"),
        ("auth.jwksUrl=http://login/certs", "/auth/jwksUrl"),
        ("etcd.replicas=2", "/etcd/replicas"),
        ("etcd.enabled=false", "set etcd.endpoints"),
        ("gateway.drainSeconds=5", "/gateway/drainSeconds"),
        ("gateway.settings.POLLCAST_ORIGINS=x", "POLLCAST_ORIGINS"),
        ("poller.settings.DATABASE_URL=x", "DATABASE_URL"),
        ("settings.HTTP_FILE=x", "HTTP_FILE"),
        ("database.existingSecret=", "set database.existingSecret or database.url"),
        ("database.sources[0].variable=shop", "/database/sources/0/variable"),
        ("database.sources[0].variable=POLLCAST_DATABASE_URL", "/database/sources/0/variable"),
        ("auth.existingSecret=", "auth.mode needs auth.existingSecret"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(value: str, reason: str) -> None:
    done = helm("template", "live", str(CHART), "--set", value)
    assert done.returncode != 0
    assert reason in done.stderr


def variables(release: Release, role: str, secrets: Path) -> Iterator[tuple[str, str]]:
    """Yield the variables of a role's container as a pod has them; files of secrets are in this folder instead."""
    seen: dict[str, str] = {}
    fields = {"metadata.name": f"live-pollcast-{role}-0", "status.podIP": "10.1.2.3"}
    for each in release.container(role)["env"]:
        name = each["name"]
        value = fields[each["valueFrom"]["fieldRef"]["fieldPath"]] if "valueFrom" in each else each["value"]
        value = re.sub(r"\$\((\w+)\)", lambda found: seen[found[1]], value)
        assert name not in seen
        seen[name] = value
        yield name, value.replace("/run/secrets/pollcast", str(secrets))


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the Secrets of all sets of values hold."""
    folder = tmp_path_factory.mktemp("secrets")
    issued = Authority(folder / "authority").issue("pollcast")
    for name in ("tls", "etcd-tls", "etcd-auth", "auth", "database"):
        (folder / name).mkdir()
    for name in ("tls", "etcd-tls"):
        for key, file in (("ca.crt", issued.ca), ("tls.crt", issued.cert), ("tls.key", issued.key)):
            (folder / name / key).write_bytes(file.read_bytes())
    for name, text in {
        "etcd-auth/username": "pollcast\n",
        "etcd-auth/password": "secret\n",
        "auth/auth-secret": "x" * 44,
        "auth/keys.json": '{"keys": [{"kty": "RSA", "kid": "a", "n": "sXch", "e": "AQAB"}]}',
        "database/database-url": "postgresql://pollcast@db/shop\n",
        "database/url": "postgresql://pollcast@db/shop\n",
        "database/listen-url": "postgresql://pollcast@primary/shop\n",
    }.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("role", ROLES)
def test_a_service_takes_the_variables_of_its_pod(
    release: Release, role: str, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = dict(variables(release, role, secrets))
    own = {f"POLLCAST_{field.upper()}" for field in KINDS[role].model_fields}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
        assert not name.startswith("POLLCAST_") or name.removesuffix("_FILE") in own
    settings = load(KINDS[role])
    assert unknown_variables() == []
    assert isinstance(settings, GatewaySettings | PollerSettings | CoordinatorSettings)
    assert settings.node == f"live-pollcast-{role}-0"
    assert (settings.http, settings.grpc) == tuple(
        f"{'[::]' if '[::]' in given['POLLCAST_HTTP'] else '0.0.0.0'}:{release.port(role, port)}"
        for port in ("http", "grpc")
    )
    served = settings.advertised("ignored", 4001)
    nodes = next(name for name in release.of("Service") if name.endswith("-nodes"))
    named = f"live-pollcast-{role}-0.{nodes}.{NAMESPACE}.svc:4001"
    assert served == (named if "POLLCAST_TLS_CERT" in given else "10.1.2.3:4001")


def test_the_urls_of_sources_are_files_of_pollers_alone_and_may_be_all_there_are(
    releases: dict[str, Release],
) -> None:
    release = releases["sources-values"]
    of_poller = {each["name"]: each.get("value") for each in release.container("poller")["env"]}
    assert of_poller["SHOP_URL_FILE"] == "/run/secrets/pollcast/source-shop-url/url"
    assert of_poller["LAKE_URL_FILE"] == "/run/secrets/pollcast/source-lake-url/lake-url"
    assert "POLLCAST_DATABASE_URL_FILE" not in of_poller
    mounted = {path: volume["secret"]["secretName"] for path, _, volume in release.mounts("poller") if "source" in path}
    assert mounted == {f"/run/secrets/pollcast/source-{name}-url": name for name in ("shop", "lake")}
    for role in ("gateway", "coordinator"):
        assert not any("source" in path for path, _, _ in release.mounts(role))


def test_files_are_read_where_a_volume_with_them_is_mounted(release: Release) -> None:
    made = {name: set(secret["data"]) for name, secret in release.of("Secret").items()}
    for role in ROLES:
        mounts = {path: volume for path, _, volume in release.mounts(role)}
        files = [
            e["value"] for e in release.container(role)["env"] if e.get("value", "").startswith(("/run/", "/etc/"))
        ]
        assert files
        for file in files:
            volume = mounts[str(Path(file).parent)]
            if (secret := volume.get("secret")) and secret["secretName"] in made:
                assert Path(file).name in made[secret["secretName"]]


def test_what_changes_while_a_pod_runs_is_mounted_whole(release: Release) -> None:
    for role in ROLES:
        assert not any("subPath" in mount for _, mount, _ in release.mounts(role))
        annotations = release.workloads()[role]["spec"]["template"]["metadata"].get("annotations", {})
        assert not any(name.startswith("checksum") for name in annotations)


def test_the_standard_catalogue_is_one(releases: dict[str, Release], tmp_path: Path) -> None:
    (data,) = [m["data"] for m in releases["default"].of("ConfigMap").values() if "catalog.toml" in m["data"]]
    (tmp_path / "catalog.toml").write_text(data["catalog.toml"])
    assert catalogue.load(tmp_path / "catalog.toml").queries


def test_pods_fulfil_the_restricted_standard(release: Release) -> None:
    for role in release.workloads():
        pod, container = release.pod(role), release.container(role)
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert {"requests", "limits"} <= container["resources"].keys()
        assert not any("hostPath" in volume for volume in pod.get("volumes", []))


def test_probes_ask_what_services_answer(release: Release) -> None:
    for role in ROLES:
        container = release.container(role)
        asked = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
        assert {kind: get["path"] for kind, get in asked.items()} == {
            "startup": "/healthz",
            "liveness": "/healthz",
            "readiness": "/readyz",
        }
        assert all(release.port(role, get["port"]) == 4000 for get in asked.values())
        assert all(get["path"].strip("/") in OWN_PATHS for get in asked.values())


def test_a_pod_has_the_time_to_drain_after_load_balancers_have_noticed(release: Release) -> None:
    waits = release.container("gateway").get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
    before = int(waits[1]) if waits else 0
    assert release.pod("gateway")["terminationGracePeriodSeconds"] >= before + DRAIN_SECONDS + 15
    for role in ("poller", "coordinator"):
        assert release.pod(role)["terminationGracePeriodSeconds"] >= 10


def test_selectors_select_the_pods_they_are_about(release: Release) -> None:
    for name, service in release.of("Service").items():
        roles = {"etcd"} if name.endswith("-etcd") else set(ROLES) if name.endswith("-nodes") else {"gateway"}
        assert release.selected(service["spec"]["selector"]) == roles
        for role in roles:
            assert all(release.port(role, port["targetPort"]) for port in service["spec"]["ports"])
    budgets = release.of("PodDisruptionBudget")
    assert len(budgets) == len(release.workloads())
    for name, budget in budgets.items():
        assert release.selected(budget["spec"]["selector"]) == {name.rpartition("-")[2]}
    for name, policy in release.of("NetworkPolicy").items():
        roles = {"poller", "coordinator"} if name.endswith("-nodes") else {name.rpartition("-")[2]}
        assert release.selected(policy["spec"]["podSelector"]) == roles
        for rule in policy["spec"]["ingress"]:
            assert all(release.port(role, port["port"]) for port in rule["ports"] for role in roles)
            if {port["port"] for port in rule["ports"]} == {"grpc"}:
                assert release.selected(rule["from"][0]["podSelector"]) == set(ROLES)


def test_the_services_find_the_members_of_the_releases_etcd(release: Release) -> None:
    if "etcd" not in release.workloads():
        assert all("etcd-0.etcd" in e or e == "etcd:2379" for e in _etcd(release)[:1])
        return
    etcd = release.workloads()["etcd"]
    name, service = etcd["metadata"]["name"], etcd["spec"]["serviceName"]
    hosts = [f"{name}-{n}.{service}.{NAMESPACE}.svc" for n in range(etcd["spec"]["replicas"])]
    assert _etcd(release) == [f"{host}:{release.port('etcd', 'client')}" for host in hosts]
    env = {each["name"]: each.get("value") for each in release.container("etcd")["env"]}
    peers = [f"{host.partition('.')[0]}=http://{host}:{release.port('etcd', 'peer')}" for host in hosts]
    assert env["ETCD_INITIAL_CLUSTER"] == ",".join(peers)


def _etcd(release: Release) -> list[str]:
    """Return the endpoints of etcd that the gateways get."""
    env = {each["name"]: each.get("value") for each in release.container("gateway")["env"]}
    return str(env["POLLCAST_ETCD"]).split(",")


def test_the_ingress_publishes_all_paths_for_clients_and_no_other(releases: dict[str, Release]) -> None:
    for name, prefix in (("production-values", "/pollcast"), ("key-set-values", "")):
        ingress, longpoll = releases[name].of("Ingress").values()
        paths = {path["path"]: path["pathType"] for path in ingress["spec"]["rules"][0]["http"]["paths"]}
        exact = {path for path, kind in paths.items() if kind == "Exact"}
        assert exact == {f"{prefix}/"} | ({prefix} if prefix else set())
        assert paths.keys() - exact == {f"{prefix}/{path}" for path in OWN_PATHS - {"healthz", "metrics", "readyz"}}
        assert longpoll["metadata"]["name"] == f"{ingress['metadata']['name']}-longpoll"
        (own,) = longpoll["spec"]["rules"][0]["http"]["paths"]
        assert (own["path"], own["backend"]) == (f"{prefix}{LONGPOLL_PATH}", next(iter(_backends(ingress))))
        annotations = dict(ingress["metadata"].get("annotations", {}))
        sticky = {"nginx.ingress.kubernetes.io/upstream-hash-by": "$remote_addr"}
        assert longpoll["metadata"]["annotations"] == annotations | sticky
        assert {**longpoll["spec"], "rules": None} == {**ingress["spec"], "rules": None}  # the same host and TLS


def _backends(ingress: Manifest) -> Iterator[Manifest]:
    for path in ingress["spec"]["rules"][0]["http"]["paths"]:
        yield path["backend"]


def test_the_autoscaler_scales_the_gateways_by_a_metric_that_they_have(releases: dict[str, Release]) -> None:
    metrics = re.findall(r"^\| `(pollcast_\w+)` ", (ROOT / "docs" / "reference" / "metrics.md").read_text(), re.M)
    for name, kinds in (("production-values", ["Pods", "Resource"]), ("key-set-values", ["Resource"])):
        (scaler,) = releases[name].of("HorizontalPodAutoscaler").values()
        gateways = releases[name].workloads()["gateway"]
        target = {key: scaler["spec"]["scaleTargetRef"][key] for key in ("kind", "name")}
        assert target == {"kind": gateways["kind"], "name": gateways["metadata"]["name"]}
        assert "replicas" not in gateways["spec"]
        assert [each["type"] for each in scaler["spec"]["metrics"]] == kinds
        for each in scaler["spec"]["metrics"]:
            assert "pods" not in each or each["pods"]["metric"]["name"] in metrics


def test_prometheus_gets_every_service_and_the_alerts(production: Release) -> None:
    (monitor,) = production.of("ServiceMonitor").values()
    labels = monitor["spec"]["selector"]["matchLabels"].items()
    scraped = [s for s in production.of("Service").values() if labels <= s["metadata"]["labels"].items()]
    assert [production.selected(service["spec"]["selector"]) for service in scraped] == [set(ROLES)]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in scraped[0]["spec"]["ports"]}
    assert {"targetLabel": "job", "replacement": "pollcast"} in endpoint["relabelings"]
    (rules,) = production.of("PrometheusRule").values()
    assert rules["spec"] == yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())
    (board,) = [m for name, m in production.of("ConfigMap").items() if name.endswith("-dashboard")]
    assert board["data"]["pollcast.json"].strip() == (ROOT / "deploy" / "grafana.json").read_text().strip()


def test_the_chart_has_the_version_of_pollcast() -> None:
    chart: Manifest = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
