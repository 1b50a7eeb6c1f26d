"""Nodes: a command of torchrun on several pods; `python -m
react_pipeline.extensions.kubernetes.nodes COMMAND ...`, as `REACT_NODE_LAUNCHER` names it.

Belongs here: the Indexed Job with the other nodes. Does not belong here: what torchrun starts
(`torchrun`). The pod of the run is the first node and holds the rendezvous. The others are
copies of it that belong to it, so that Kubernetes removes them however it ends.
"""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from react_pipeline.extensions.kubernetes.resources import RESTARTS

if TYPE_CHECKING:
    from kubernetes.client import BatchV1Api

NODES_VARIABLE = "REACT_NODES"
"""How many there are, with the first."""
PORT = 29400
POLL_SECONDS = 5.0
NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_PASSED_ON = ("DAGSTER_PIPES_", "REACT_", "OMP_", "TORCH_", "PYTHONPATH")
"""Variables that the step sets in addition to those of its pod."""
_TOKEN = "kube-api-access"  # noqa: S105 - the name of a volume
_OF_ONE_POD = (
    "nodeName",
    "hostname",
    "subdomain",
    "priority",
    "preemptionPolicy",
    "initContainers",
)


def with_rendezvous(command: list[str], name: str, address: str) -> list[str]:
    """The command of torchrun with the place where the nodes meet."""
    at = command.index("torch.distributed.run") + 1
    meeting = ["--rdzv-backend", "c10d", "--rdzv-id", name, "--rdzv-endpoint", f"{address}:{PORT}"]
    return [*command[:at], *meeting, *command[at:]]


def indexed_job(
    pod: dict[str, Any], command: list[str], nodes: int, environ: dict[str, str]
) -> dict[str, Any]:
    """The job with all nodes but the first, as copies of its pod.

    Args:
        pod: The pod of the run, as Kubernetes shows it.
        command: What each runs.
        nodes: How many there are, with the first.
        environ: The environment of the step.
    """
    metadata, spec = pod["metadata"], copy.deepcopy(pod["spec"])
    setup = [one for one in spec.get("initContainers", ()) if one.get("restartPolicy") == "Always"]
    for field in _OF_ONE_POD:
        spec.pop(field, None)
    if setup:
        spec["initContainers"] = setup
    spec |= {"restartPolicy": "Never", "automountServiceAccountToken": False}
    spec["volumes"] = [v for v in spec.get("volumes", ()) if not v["name"].startswith(_TOKEN)]
    (main, *_) = spec["containers"]
    main |= {"command": command, "args": []}
    passed = {name: value for name, value in environ.items() if name.startswith(_PASSED_ON)}
    main["env"] = [
        *(one for one in main.get("env", ()) if one["name"] not in passed),
        *({"name": name, "value": value} for name, value in sorted(passed.items())),
    ]
    for one in [*spec["containers"], *setup]:
        mounts = one.get("volumeMounts", ())
        one["volumeMounts"] = [m for m in mounts if not m["name"].startswith(_TOKEN)]
    owner = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
    labels = {k: v for k, v in metadata.get("labels", {}).items() if "job-name" not in k}
    labels = {k: v for k, v in labels.items() if "controller-uid" not in k}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(metadata["name"]),
            "labels": labels,
            "ownerReferences": [owner],
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": nodes - 1,
            "parallelism": nodes - 1,
            "backoffLimitPerIndex": RESTARTS,
            "maxFailedIndexes": 0,
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def job_name(pod: str) -> str:
    """The name of the job of the other nodes; Kubernetes allows 63 characters."""
    return f"{pod[:57].rstrip('-')}-nodes"


def run(command: list[str], batch: BatchV1Api, pod: dict[str, Any], nodes: int) -> int:
    """Run a command on all nodes; returns the exit status of the first.

    The others are removed when it ends, and it is ended when one of them has failed for good.
    """
    namespace, name = pod["metadata"]["namespace"], job_name(pod["metadata"]["name"])
    whole = with_rendezvous(command, name, pod["status"]["podIP"])
    batch.create_namespaced_job(namespace, indexed_job(pod, whole, nodes, dict(os.environ)))
    child: subprocess.Popen[bytes] | None = None

    def end(number: int, _frame: Any) -> None:
        if child is not None:
            child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        child = subprocess.Popen(whole)  # noqa: S603
        while (status := child.poll()) is None:
            with suppress(Exception):  # a server that is briefly unavailable ends no training
                others = batch.read_namespaced_job_status(name, namespace).status
                if any(one.type == "Failed" for one in others.conditions or ()):
                    child.terminate()
            time.sleep(POLL_SECONDS)
        return status
    finally:
        batch.delete_namespaced_job(name, namespace, propagation_policy="Background")


def main() -> int:
    """The launcher of nodes."""
    from kubernetes import client, config

    nodes = int(os.environ[NODES_VARIABLE])
    config.load_incluster_config()
    api = client.ApiClient()
    namespace = NAMESPACE.read_text(encoding="utf-8").strip()
    found = client.CoreV1Api(api).read_namespaced_pod(os.environ["HOSTNAME"], namespace)
    return run(sys.argv[1:], client.BatchV1Api(api), api.sanitize_for_serialization(found), nodes)


if __name__ == "__main__":
    sys.exit(main())
