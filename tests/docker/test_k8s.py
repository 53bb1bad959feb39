"""The manifests of Kubernetes, as far as they can be checked without a cluster: by the schemas of its API."""

from __future__ import annotations

import asyncio
import json
import shlex
import uuid
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect_kubernetes.settings import KubernetesSettings
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from deployments.automations import HEARTBEAT_S
from deployments.pools import PROCESSES, pool_kind
from retrieval_core.settings import Settings
from tests.docker.commands import assert_understood

FOLDER = Path(__file__).parents[2] / "docker" / "k8s"
VERSIONS = ("1.31", "1.34", "1.37")  # of Kubernetes
MANIFESTS: dict[str, dict[str, Any]] = {
    f"{manifest['kind']} {manifest['metadata']['name']}": manifest
    for file in sorted(FOLDER.glob("*.yaml"))
    for manifest in yaml.safe_load_all(file.read_text())
}
WORKLOADS = {name: manifest for name, manifest in MANIFESTS.items() if "template" in manifest.get("spec", {})}
SETTINGS: dict[str, str] = MANIFESTS["ConfigMap vitrine-settings"]["data"]
TEMPLATES: dict[str, str] = MANIFESTS["ConfigMap vitrine-pools"]["data"]
POOLS = [file.split(".")[0] for file in TEMPLATES]
pytestmark = pytest.mark.usefixtures("prefect_server")  # a job is made with a client of it
SECRETS = {
    "vitrine-database": {"database", "server"},
    "vitrine-prefect": {"server", "register", "flows", "worker", "prefect-job"},
    "vitrine-store": {"register", "flows", "search", "prefect-job"},
    "vitrine-tokens": {"search"},
}


def job_of(pool: str, given: dict[str, Any]) -> KubernetesWorkerJobConfiguration:
    """What a worker makes of a run of the pool, with the job variables that the run gives."""
    template = json.loads(TEMPLATES[f"{pool}.kubernetes.json"])
    job = asyncio.run(KubernetesWorkerJobConfiguration.from_template_and_values(template, given))
    job.prepare_for_flow_run(FlowRun(flow_id=uuid.UUID(int=1), id=uuid.UUID(int=2), name="embed, shards 1 to 9 of 50"))
    return job


def pod_of(name: str) -> dict[str, Any]:
    if name in POOLS:
        return dict(job_of(name, {}).job_manifest["spec"]["template"]["spec"])
    return dict(WORKLOADS[name]["spec"]["template"]["spec"])


PODS = [*WORKLOADS, *POOLS]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_one_of_the_api_in_the_namespace(name: str, version: str) -> None:
    kubernetes_validate.validate(MANIFESTS[name], version, strict=True)
    assert MANIFESTS[name]["metadata"]["namespace"] == "vitrine"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pool", POOLS)
def test_the_job_of_a_range_is_one_of_the_api(pool: str, version: str) -> None:
    manifest = job_of(pool, {}).job_manifest
    for key in ("parallelism", "completions"):  # Prefect demands them in the pod, where the API ignores them
        del manifest["spec"]["template"]["spec"][key]
    kubernetes_validate.validate(manifest, version, strict=True)
    assert manifest["spec"]["backoffLimit"] == 0, "Prefect submits again what was evicted"
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["prefect", "flow-run", "execute"]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert environment["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"
    assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == str(HEARTBEAT_S)
    assert PROCESSES.template["job_configuration"]["env"].items() <= environment.items()


@pytest.mark.parametrize("given", [{"command": "touch /tmp/attacked"}, {"image": "attacker/image"}, {"namespace": "b"}])
@pytest.mark.parametrize("pool", POOLS)
def test_no_run_may_set_what_its_job_is(pool: str, given: dict[str, Any], tmp_path: Path) -> None:
    """The server refuses these and `env`, too (`tests/deployments/test_prefect_yaml.py`)."""
    assert job_of(pool, given).job_manifest == job_of(pool, {}).job_manifest
    (tmp_path / f"{pool}.kubernetes.json").write_text(TEMPLATES[f"{pool}.kubernetes.json"])
    kind = pool_kind(pool, tmp_path)
    assert (kind.type, kind.template["variables"]) == ("kubernetes", PROCESSES.template["variables"])


@pytest.mark.parametrize("name", PODS)
def test_a_pod_has_no_more_rights_than_it_needs_and_bounds(name: str) -> None:
    pod = pod_of(name)
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    makes_jobs = pod.get("serviceAccountName") == "pools"
    assert makes_jobs == ("pool-" in name)
    assert makes_jobs or pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]


def test_whoever_makes_jobs_reads_no_secret() -> None:
    resources = {resource for rule in MANIFESTS["Role pools"]["rules"] for resource in rule["resources"]}
    assert resources == {"jobs", "pods", "pods/log", "events"}


@pytest.mark.parametrize("name", WORKLOADS)
def test_what_serves_is_watched(name: str) -> None:
    if WORKLOADS[name]["kind"] == "Job":
        return
    for container in pod_of(name)["containers"]:
        assert "livenessProbe" in container
        is_asked = f"Service {WORKLOADS[name]['metadata']['name']}" in MANIFESTS
        assert ("readinessProbe" in container) == is_asked


def test_secrets_are_named_and_reach_only_what_uses_them() -> None:
    users: dict[str, set[str]] = {}
    for name in PODS:
        pod = pod_of(name)
        for container in pod["containers"]:
            sources = [source["secretRef"]["name"] for source in container.get("envFrom", ()) if "secretRef" in source]
            values = [variable.get("valueFrom", {}) for variable in container.get("env", ())]
            sources += [value["secretKeyRef"]["name"] for value in values if value]
            sources += [volume["secret"]["secretName"] for volume in pod.get("volumes", ()) if "secret" in volume]
            for secret in sources:
                users.setdefault(secret, set()).add(container["name"])
    assert users == SECRETS
    assert "Secret" not in {manifest["kind"] for manifest in MANIFESTS.values()}


def test_a_job_reads_the_login_of_prefect_from_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker replaces the login that it would hand on by this reference."""
    for pool in POOLS:
        (worker,) = pod_of(f"Deployment pool-{pool}")["containers"]
        for variable in worker["env"]:
            monkeypatch.setenv(variable["name"], variable["value"])
        settings = KubernetesSettings()
        assert settings.observer.namespaces == {"vitrine"}
        named = (settings.worker.api_auth_string_secret_name, settings.worker.api_auth_string_secret_key)
        assert named == ("vitrine-prefect", "PREFECT_API_AUTH_STRING")


def test_the_pools_of_the_settings_have_a_template_a_worker_and_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    settings = Settings()  # refuses a variable that it does not know
    assert settings.runner == "pools"
    assert settings.pools.names() == sorted(POOLS)
    for pool in POOLS:
        (worker,) = pod_of(f"Deployment pool-{pool}")["containers"]
        assert worker["args"][worker["args"].index("--pool") + 1] == pool
        (shards,) = pod_of(pool)["containers"]
        for variable in shards["env"]:
            monkeypatch.setenv(variable["name"], variable["value"])
        assert Settings().n_threads == int(shards["resources"]["limits"]["cpu"])
        assert (Settings().device == "cuda") == ("nvidia.com/gpu" in shards["resources"]["limits"])
        assert f"set-concurrency-limit {pool} " in str(pod_of("Job register"))


@pytest.mark.parametrize("name", PODS)
def test_an_image_is_one_of_ours_or_has_a_fixed_tag(name: str) -> None:
    version = distribution("vitrine").version
    images = {container["image"] for container in pod_of(name)["containers"]}
    assert images <= {f"vitrine-worker:{version}", f"vitrine-app:{version}", "postgres:17.6-alpine"}


@pytest.mark.parametrize("name", PODS)
def test_the_commands_are_understood(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for container in pod_of(name)["containers"]:
        arguments: list[str] = container.get("args", [])
        lines = [shlex.split(line) for line in arguments[-1].splitlines()] if "-euc" in arguments else [arguments]
        for words in lines:
            assert_understood(words, SETTINGS["PREFECT_API_URL"], monkeypatch)


def test_services_reach_pods_at_the_names_that_others_use() -> None:
    for name, service in MANIFESTS.items():
        if service["kind"] != "Service":
            continue
        pods = [
            workload
            for workload in WORKLOADS.values()
            if workload["spec"]["template"]["metadata"]["labels"] == service["spec"]["selector"]
        ]
        (container,) = pods[0]["spec"]["template"]["spec"]["containers"]
        ports = [port["port"] for port in service["spec"]["ports"]]
        assert ports == [port["containerPort"] for port in container["ports"]], name
    assert SETTINGS["PREFECT_API_URL"] == "http://server:4200/api"
    (server,) = pod_of("Deployment server")["containers"]
    assert "@database/" in str(server["env"])
