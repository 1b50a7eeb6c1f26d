"""Several nodes in Kubernetes: the job of the others, and that all end together."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes import client

from react_pipeline.assets.resources import REPOSITORY
from react_pipeline.extensions.kubernetes import nodes
from react_pipeline.extensions.kubernetes.nodes import indexed_job, with_rendezvous
from react_pipeline.extensions.kubernetes.resources import Resources, pod
from react_pipeline.extensions.torchrun.assets.processes import STORE_OF_A_ROUND

TOKEN = {"name": "kube-api-access-abcde", "mountPath": "/var/run/secrets"}
POD = {
    "metadata": {
        "name": "dagster-run-0000-abcde",
        "namespace": "react",
        "uid": "1234",
        "labels": {"app.kubernetes.io/component": "run_worker", "job-name": "dagster-run-0000"},
    },
    "spec": {
        "nodeName": "machine-7",
        "containers": [
            {
                "name": "dagster",
                "image": "react-pipeline:0.1.0",
                "args": ["dagster", "api", "execute_run"],
                "env": [{"name": "REACT_NODES", "value": "3"}, {"name": "A", "value": "b"}],
                "resources": {"limits": {"nvidia.com/gpu": "8"}},
                "volumeMounts": [TOKEN, {"name": "scratch", "mountPath": "/scratch"}],
            }
        ],
        "initContainers": [
            {"name": "git-sync", "image": "git-sync", "restartPolicy": "Always"},
            {"name": "once", "image": "once"},
        ],
        "volumes": [
            {"name": TOKEN["name"], "projected": {"sources": []}},
            {"name": "scratch", "persistentVolumeClaim": {"claimName": "react-scratch"}},
        ],
    },
    "status": {"podIP": "127.0.0.1"},
}
COMMAND = ["python", "-m", "torch.distributed.run", "--nnodes", "3", "-m", "module"]


def test_the_other_nodes_are_copies_of_the_first() -> None:
    passed = {"DAGSTER_PIPES_CONTEXT": "run", "REACT_NODES": "3", **STORE_OF_A_ROUND}
    environ = {**passed, "HOME": "/root"}
    job = indexed_job(POD, with_rendezvous(COMMAND, "name", "10.0.0.7"), 3, environ)
    kubernetes_validate.validate(job, "1.33", strict=True)
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    assert job["metadata"]["ownerReferences"][0]["uid"] == "1234"
    spec = job["spec"]["template"]["spec"]
    (main,) = spec["containers"]
    assert main["command"][main["command"].index("--rdzv-endpoint") + 1] == "10.0.0.7:29400"
    env = {one["name"]: one["value"] for one in main["env"]}
    assert env == {"A": "b", **passed}
    assert main["resources"] == POD["spec"]["containers"][0]["resources"]
    assert [mount["name"] for mount in main["volumeMounts"]] == ["scratch"]
    assert [one["name"] for one in spec["initContainers"]] == ["git-sync"]
    assert "nodeName" not in spec and not spec["automountServiceAccountToken"]
    assert "job-name" not in job["spec"]["template"]["metadata"]["labels"]


def test_only_a_run_of_several_nodes_may_start_them() -> None:
    one, several = (pod(Resources(cpu=1, memory_gib=1, nodes=count)) for count in (1, 3))
    assert "env" not in one["container_config"]
    assert not one["pod_spec_config"]["automount_service_account_token"]
    assert several["pod_spec_config"]["service_account_name"] == "react-nodes"
    env = {one["name"]: one["value"] for one in several["container_config"]["env"]}
    assert env["REACT_TORCHRUN_ARGS"].startswith("--nnodes 3 ")
    assert env["REACT_NODE_LAUNCHER"] == f"python -m {nodes.__name__}"


class Cluster:
    """An API server with one job: `conditions` of it, and what was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.resources: list[str] = []
        self.conditions: list[dict[str, str]] = []
        self.interrupts = False
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                cluster.asked.append(self.command)
                # /apis/batch/v1/namespaces/react/jobs/NAME/status
                cluster.resources.append("/".join(self.path.partition("?")[0].split("/")[6::2]))
                status = {"conditions": cluster.conditions}
                body = json.dumps({"kind": "Job", "status": status}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                if cluster.interrupts and self.command == "GET":
                    os.kill(os.getpid(), signal.SIGTERM)

            do_GET = do_POST = do_DELETE = answer  # noqa: N815 - names of http.server

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        configuration = client.Configuration(host=f"http://127.0.0.1:{self.http.server_port}")
        self.batch = client.BatchV1Api(client.ApiClient(configuration))

    def run(self, code: str) -> int:
        command = [sys.executable, "-c", code, "torch.distributed.run"]
        return nodes.run(command, self.batch, POD, 3)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(nodes, "POLL_SECONDS", 0.05)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    cluster = Cluster()
    yield cluster
    cluster.http.shutdown()
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_the_others_are_removed_when_the_first_ends(cluster: Cluster) -> None:
    assert cluster.run("import sys; sys.exit(3)") == 3
    assert (cluster.asked[0], cluster.asked[-1]) == ("POST", "DELETE")


def test_the_first_ends_when_another_fails_for_good(cluster: Cluster) -> None:
    cluster.conditions = [{"type": "Failed", "status": "True"}]
    assert cluster.run("import time; time.sleep(60)") == -signal.SIGTERM
    assert cluster.asked[-1] == "DELETE"


def test_the_role_allows_what_the_first_node_asks(cluster: Cluster) -> None:
    manifests = yaml.safe_load_all(
        (REPOSITORY / "dagster_home" / "production" / "kubernetes.yaml").read_text()
    )
    (role,) = (one for one in manifests if one["kind"] == "Role")
    allowed = {(v, r) for one in role["rules"] for v in one["verbs"] for r in one["resources"]}
    cluster.conditions = [{"type": "Failed", "status": "True"}]
    cluster.run("import time; time.sleep(60)")
    verbs = {"POST": "create", "GET": "get", "DELETE": "delete"}
    asked = {(verbs[m], r) for m, r in zip(cluster.asked, cluster.resources, strict=True)}
    assert asked == {("create", "jobs"), ("get", "jobs/status"), ("delete", "jobs")}
    assert asked | {("get", "pods")} <= allowed  # the pod of its own


def test_a_cancelled_run_ends_all_nodes(cluster: Cluster) -> None:
    cluster.interrupts = True
    assert cluster.run("import time; time.sleep(60)") == -signal.SIGTERM
    assert cluster.asked[-1] == "DELETE"
