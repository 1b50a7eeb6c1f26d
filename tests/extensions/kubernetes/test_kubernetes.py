"""Runs in Kubernetes: the jobs that Dagster's launcher sends to the API server with the values of
`dagster_home/production`, stage by stage, compared with Kubernetes' own schema.

No registry that tests reach has Dagster's chart, so what it makes of the values is written here by
hand.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes
import kubernetes_validate
import pytest
import yaml
from conftest import REPOSITORY
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)

from react_pipeline.extensions.kubernetes.assets import (
    CONFIG_TAG,
    KINDS,
    MAX_RUNTIME_TAG,
    resource_kind,
    table,
)
from react_pipeline.stage import STAGES
from react_pipeline.store.errors import InputError

PRODUCTION = REPOSITORY / "dagster_home" / "production"
VERSION = "1.33"
OTHER = "asset_of_another_team"
WEB, DAEMON = "react-dagster-webserver", "react-dagster-daemon"
CODE = "react-dagster-user-deployments-react-code"
LABELS = {
    WEB: {"component": "dagster-webserver"},
    DAEMON: {"component": "dagster-daemon"},
    CODE: {"component": "user-deployments"},
}
"""Of the chart's pods, by the name of their Deployment."""
Job = dict[str, Any]
Launch = Callable[..., Job]


def values() -> dict[str, Any]:
    return yaml.safe_load((PRODUCTION / "kubernetes-values.yaml").read_text())


def snake(fields: dict[str, Any]) -> dict[str, Any]:
    """Names of the first level, as the chart writes them into `dagster.yaml`."""
    return {re.sub("[A-Z]", lambda c: f"_{c[0].lower()}", name): v for name, v in fields.items()}


def dagster_yaml() -> dict[str, Any]:
    """The chart's ConfigMap, without the database and what a run does not depend on."""
    chart = values()
    daemon, concurrency = chart["dagsterDaemon"], chart["concurrency"]
    launcher = snake(chart["runLauncher"]["config"]["k8sRunLauncher"])
    launcher["run_k8s_config"] = snake(launcher["run_k8s_config"])
    launcher |= {
        "job_namespace": "react",
        "service_account_name": "react-dagster",
        "dagster_home": chart["global"]["dagsterHome"],
        "instance_config_map": chart["global"]["dagsterInstanceConfigMap"],
        "postgres_password_secret": chart["global"]["postgresqlSecretName"],
    }
    logs = snake(chart["computeLogManager"]["config"]["s3ComputeLogManager"])
    s3 = {"module": "dagster_aws.s3.compute_log_manager", "class": "S3ComputeLogManager"}
    return {
        "compute_logs": {**s3, "config": {**logs, "verify": True}},
        "run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": launcher},
        "run_coordinator": daemon["runCoordinator"]["config"]["customRunCoordinator"],
        "run_monitoring": snake(daemon["runMonitoring"]),
        "run_retries": snake(daemon["runRetries"]),
        "concurrency": {name: snake(concurrency[name]) for name in ("pools", "runs")},
        "telemetry": chart["telemetry"],
        **chart["additionalInstanceConfig"],
    }


def code_location() -> dict[str, Any]:
    """What the chart passes on from the code server to its runs."""
    server = code_server()
    pod = {
        "automount_service_account_token": True,
        "init_containers": server["initContainers"],
        "security_context": server["podSecurityContext"],
    }
    kept = ("env", "volumes", "volumeMounts", "resources")
    return {
        "k8s": {
            **snake({name: server[name] for name in kept}),
            "namespace": "react",
            "env_secrets": [one["name"] for one in server["envSecrets"]],
            "service_account_name": "react-runs",
            "run_k8s_config": {"pod_spec_config": pod},
        }
    }


def code_server() -> dict[str, Any]:
    (server,) = values()["dagster-user-deployments"]["deployments"]
    return server


@dg.job
def empty() -> None:
    pass


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launch]:
    """Gives the job that Kubernetes is sent for a run of assets with the names of stages, or of
    another team, and the tags of the run.
    """
    taken: list[Any] = []
    monkeypatch.setattr(kubernetes.config, "load_kube_config", lambda *_, **__: None)
    monkeypatch.setattr(
        kubernetes.client.BatchV1Api,
        "create_namespaced_job",
        lambda _, body, **__: taken.append(body),
    )
    instance_config = dagster_yaml()
    instance_config["run_launcher"]["config"]["load_incluster_config"] = False
    instance_config["run_coordinator"]["config"]["resources"]["control_set"] = {"hours": 0.5}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(instance_config))
    origin = dg.reconstructable(empty).get_python_origin()
    location = origin.repository_origin._replace(
        container_image="registry.example.com/react-pipeline:0.1.0",
        container_context=code_location(),
    )
    code = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("react-code"), "react")
    origins = {
        "job_code_origin": origin._replace(repository_origin=location),
        "remote_job_origin": RemoteJobOrigin(code, "empty"),
    }
    bodies = [dg.asset(name=name)(lambda: None) for name in [*STAGES, OTHER]]
    job = dg.Definitions(bodies).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:

        def launched(*assets: str, tags: dict[str, str] | None = None) -> Job:
            keys = frozenset(map(dg.AssetKey, assets)) or None
            run = instance.create_run_for_job(job, tags=tags, asset_selection=keys, **origins)
            queued = instance.submit_run(run.run_id, None)  # type: ignore[arg-type]
            instance.launch_run(run.run_id, None)  # type: ignore[arg-type]
            sent = kubernetes.client.ApiClient().sanitize_for_serialization(taken.pop())
            return {**sent, "tags": queued.tags}

        yield launched


def container(job: Job) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]["containers"][0]


def assert_admitted(spec: dict[str, Any]) -> None:
    """That the namespace lets a pod in: Kubernetes' pod security standard `restricted`."""
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for one in [*spec["containers"], *spec.get("initContainers", ())]:
        assert one["securityContext"]["allowPrivilegeEscalation"] is False
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    kinds = {kind for volume in spec.get("volumes", ()) for kind in volume if kind != "name"}
    assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim"}
    assert not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))


def test_only_stages_of_the_gpu_pool_ask_for_a_gpu(launch: Launch) -> None:
    for kind, stage in {resource_kind(stage): stage for stage in STAGES.values()}.items():
        job = launch(stage.name)
        assert job.pop("tags")[MAX_RUNTIME_TAG] == f"{3600 * KINDS[kind].hours:.0f}"
        kubernetes_validate.validate(job, VERSION, strict=True)
        spec = job["spec"]["template"]["spec"]
        assert spec["serviceAccountName"] == "react-runs"
        assert spec["automountServiceAccountToken"] is False
        assert_admitted(spec)
        mounts = {mount["mountPath"] for mount in container(job)["volumeMounts"]}
        assert ("/dev/shm" in mounts) == (stage.pool == "gpu")  # noqa: S108
        assert {"/project", "/scratch"} <= mounts
        assert spec["initContainers"][0]["restartPolicy"] == "Always"
        assert ("nvidia.com/gpu" in container(job)["resources"]["limits"]) == (kind == "gpu")


def test_a_run_of_several_stages_has_enough_for_each(launch: Launch) -> None:
    together, index, pairs = (
        container(launch(*names))["resources"]
        for names in (("faiss_index", "retrieved_set"), ("faiss_index",), ("retrieved_set",))
    )
    tags = launch("retrieved_set", "control_set")["tags"]
    assert tags[MAX_RUNTIME_TAG] == f"{3600 * (KINDS['gpu'].hours + 0.5):.0f}"
    assert together["limits"] == {**index["limits"], "nvidia.com/gpu": "1"}
    assert together["requests"] == index["requests"] != pairs["requests"]


def test_runs_of_other_assets_and_tags_of_people_stay(launch: Launch) -> None:
    for job in (launch(), launch(OTHER)):
        assert container(job)["resources"] == code_server()["resources"]
    own = {"container_config": {"resources": {"limits": {"memory": "1Ti"}}}}
    job = launch("promotion", tags={CONFIG_TAG: json.dumps(own)})
    assert container(job)["resources"]["limits"]["memory"] == "1Ti"


def test_an_unknown_stage_or_field_is_refused() -> None:
    with pytest.raises(InputError, match=r"resources\.retrieved:"):
        table({"retrieved": {"cpu": 1}})
    with pytest.raises(InputError, match=r"ram[\s\S]*memory_gib"):
        table({"gpu": {"ram": 1}})


@pytest.fixture
def manifests() -> list[Job]:
    return list(yaml.safe_load_all((PRODUCTION / "kubernetes.yaml").read_text()))


def test_every_manifest_is_one_of_kubernetes(manifests: list[Job]) -> None:
    for manifest in manifests:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
        assert manifest["metadata"].get("namespace", "react") == "react"
        if manifest["kind"] == "Deployment":
            assert_admitted(manifest["spec"]["template"]["spec"])
    made = {(one["kind"], one["metadata"]["name"]) for one in manifests}
    deployments = values()["dagster-user-deployments"]
    assert ("ServiceAccount", deployments["serviceAccount"]["name"]) in made
    for volume in deployments["deployments"][0]["volumes"]:
        if claim := volume.get("persistentVolumeClaim"):
            assert ("PersistentVolumeClaim", claim["claimName"]) in made


def test_probes_of_the_chart_pass_the_guard() -> None:
    web = values()["dagsterWebserver"]
    assert web["startupProbe"]["enabled"]  # a slow start is no reason to be killed
    for probe in (web["readinessProbe"], web["livenessProbe"], web["startupProbe"]):
        ask = probe["httpGet"]
        assert ask["port"] == web["service"]["port"]
        assert {"name": "Host", "value": "localhost"} in ask["httpHeaders"]


def test_the_program_that_the_chart_starts_is_guarded(tmp_path: Path) -> None:
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    command = [PRODUCTION / "dagster-webserver", "-h", "0.0.0.0", "-p", "3000"]  # noqa: S104
    path = f"{tmp_path}:/usr/bin:/bin"
    said = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=True)
    assert said.stdout == "-m react_pipeline.extensions.ui.assets -h 0.0.0.0 -p 3000\n"
    dockerfile = (REPOSITORY / "Dockerfile").read_text()
    for words in ("/opt/guarded/dagster-webserver", "PATH=/opt/guarded:$PATH"):
        assert words in dockerfile


def test_only_who_needs_it_reaches_a_pod(launch: Launch, manifests: list[Job]) -> None:
    run = launch("promotion")["spec"]["template"]["metadata"]["labels"]
    labels = {**LABELS, "mlflow": {"app": "mlflow"}, "run": run}

    def named(one: dict[str, Any]) -> set[str]:
        """Names of the pods, or of the namespace, that a policy selects."""
        if "podSelector" not in one:
            return {*one["namespaceSelector"]["matchLabels"].values()}
        wanted = one["podSelector"].get("matchLabels", {}).items()
        return {name for name, own in labels.items() if wanted <= own.items()}

    specs = {
        one["metadata"]["name"]: one["spec"] for one in manifests if one["kind"] == "NetworkPolicy"
    }
    assert specs.pop("nobody") == {"podSelector": {}, "policyTypes": ["Ingress"]}
    reached = {}
    for name, spec in specs.items():
        (rule,) = spec["ingress"]
        ports = [one["port"] for one in rule.get("ports", ())]
        reached[name] = (named(spec), set().union(*map(named, rule["from"])), ports)
    assert reached == {
        "people": ({WEB}, {"ingress-nginx"}, [3000]),
        "code-server": ({CODE}, {WEB, DAEMON}, [4000]),
        "mlflow": ({"mlflow"}, {"ingress-nginx", CODE, "run"}, [5000]),
        "training": ({"run"}, {"run"}, []),
    }
