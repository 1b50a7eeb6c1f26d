"""Diagnosis: what a machine and a project have, what is missing, and how to get it.

Belongs here: looking, quickly; asking the servers whether they answer. Does not belong here:
repairing anything.
"""

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from rich.filesize import decimal

from react_pipeline.extension import CORE, extensions
from react_pipeline.installation import INSTALL_CLIP_RETRIEVAL, install_command
from react_pipeline.preflight import (
    ENCODERS,
    corpus_problems,
    domain_problems,
    encoder_problems,
    store_problems,
)
from react_pipeline.project import (
    CONFIG_VARIABLE,
    Manifests,
    Project,
    locate_home,
    ui_addresses,
)
from react_pipeline.settings import load_domains, without_secrets
from react_pipeline.stage import STAGES
from react_pipeline.store import InputError, Problem, ReactError
from react_pipeline.tracking import dagster_url, mlflow_url

LIGHT = ("torch", "open_clip_torch")
PIPELINE = ("clip-retrieval", "faiss-cpu", "dagster", "dagster-webserver", "mlflow")
MIN_FREE_BYTES = 5_000_000_000
SERVER_TIMEOUT_SECONDS = 5
MAX_ANSWER_BYTES = 32 << 20

_DAEMONS = "{instance{daemonHealth{allDaemonStatuses{daemonType required healthy}}}}"


class Finding(NamedTuple):
    """One line of the diagnosis: `state` is `ok`, `note` or `missing`; `remedy` says what to do
    about it.
    """

    what: str
    state: str
    detail: str
    remedy: str = ""


def diagnose(config_path: Path | None) -> list[Finding]:
    """Look at everything; never raises for what it finds."""
    findings = [Finding("python", "ok", platform.python_version()), *_packages(), *_device()]
    findings += _extensions()
    try:
        project = Project.load(config_path)
    except ReactError as error:
        named = config_path or os.environ.get(CONFIG_VARIABLE) or Path("pipeline.yaml").exists()
        state = "missing" if named else "note"
        remedy = (
            "run this in the folder that has yours, give --config, or correct the file; "
            "`react-pipeline init` writes one"
        )
        return [*findings, Finding("pipeline.yaml", state, str(error), remedy)]
    findings.append(Finding("pipeline.yaml", "ok", str(project.path)))
    for what, problems, describe in (
        ("encoder", encoder_problems, _encoders),
        ("corpus", corpus_problems, _corpus),
        ("domains", _domain_problems, _domains),
        ("store", store_problems, _store),
        ("servers", lambda _: (), _servers),
    ):
        try:
            wrong = [Finding(what, "missing", str(problem)) for problem in problems(project)]
            findings += wrong or describe(project)
        except (ReactError, ImportError, OSError) as error:
            state = "missing" if isinstance(error, ReactError) else "note"
            findings.append(Finding(what, state, str(error)))
    return findings


def _packages() -> Iterator[Finding]:
    versions: dict[str, str] = {}
    for name in (*LIGHT, *PIPELINE):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    # Without any of the others it is the light installation, which predicts.
    is_light = versions.keys().isdisjoint(PIPELINE)
    for name in (*LIGHT, *PIPELINE):
        if name in versions:
            yield Finding(name, "ok", versions[name])
            continue
        state = "note" if is_light and name in PIPELINE else "missing"
        own = name == "clip-retrieval" and not is_light
        remedy = INSTALL_CLIP_RETRIEVAL if own else install_command("pipeline")
        yield Finding(name, state, "not installed", remedy)


def _device() -> Iterator[Finding]:
    """Show what `device: auto` and `precision: auto` select."""
    try:
        import torch

        from react_pipeline.clip import choose_device, choose_precision, gpu_problem
    except (ImportError, OSError) as error:  # OSError: its libraries do not fit this system's
        yield Finding("device", "missing", f"torch cannot be imported: {error}")
        return
    device = choose_device("auto")
    state, detail, remedy = "ok", f"CPU, {os.cpu_count()} cores; no NVIDIA GPU here", ""
    if device == "cuda":
        name = torch.cuda.get_device_name()
        detail = f"{torch.cuda.device_count()} GPUs, the first: {name}"
    elif problem := gpu_problem():
        state = "note"
        detail, _, remedy = problem.partition("; ")
    yield Finding("device", state, detail, remedy)
    yield Finding("precision", "ok", f"auto is {choose_precision('auto', device)} here")


def _encoders(project: Project) -> list[Finding]:
    return [
        Finding(field, "ok", f"{encoder.model} {encoder.pretrained or ''}".strip())
        for field in ENCODERS
        if (encoder := getattr(project.config, field))
    ]


def _corpus(project: Project) -> list[Finding]:
    corpus = project.config.corpus
    detail = f"{corpus.kind}: {len(corpus.sources())} {corpus.noun}"
    return [Finding("corpus", "ok", detail)]


def _domain_problems(project: Project) -> list[Problem]:
    domains, problems = load_domains(project.config.domains)
    return [*problems, *chain(*(domain_problems(project, slug) for slug in domains))]


def _domains(project: Project) -> list[Finding]:
    domains, _ = load_domains(project.config.domains)
    detail = f"{len(domains)} in {project.config.domains}: {', '.join(sorted(domains)) or 'none'}"
    if domains:
        return [Finding("domains", "ok", detail)]
    return [Finding("domains", "missing", detail, "write class names into a NAME.yaml there")]


def _extensions() -> Iterator[Finding]:
    """List the installed extensions."""
    modules = {name: type(one).__module__ for name, one in extensions().items()}
    del modules[CORE.name]
    others = [name for name, one in modules.items() if not one.startswith("react_pipeline.")]
    own = len(modules) - len(others)
    detail = f"{own} of this package; from other packages: {', '.join(others) or 'none'}"
    yield Finding("extensions", "ok", detail)


def _store(project: Project) -> list[Finding]:
    root = project.config.store
    existing = next(path for path in (root, *root.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        raise InputError(f"{root}: no right to write")
    store = Manifests.of(project).store
    built = sum(len(store.keys(stage)) for stage in STAGES)
    free = shutil.disk_usage(existing).free
    where = f"{project.config.store_url}, here {root}" if project.config.store_url else str(root)
    state = "ok" if free > MIN_FREE_BYTES else "note"
    return [Finding("store", state, f"{where}: {built} current artifacts, {decimal(free)} free")]


def _servers(project: Project) -> Iterator[Finding]:
    """Ask whether the tracking server, and the pages of Dagster and MLflow, answer."""
    uri, ui = project.config.tracking_uri or "", ui_addresses(locate_home(project.path.parent))
    dagster = dagster_url(project.config.dagster_url) or ui.get("dagster", "")
    yield _server("dagster server", dagster, _daemons)
    if uri.startswith("http"):
        yield _server("tracking", uri.rstrip("/"), _health)
        return
    yield Finding("tracking", "ok", without_secrets(uri))
    mlflow = mlflow_url(project.config.mlflow_url, uri) or ui.get("mlflow", "")
    yield _server("mlflow server", mlflow, _health)


def _server(what: str, address: str, ask: Callable[[str], str]) -> Finding:
    if not address:
        return Finding(what, "ok", "none of this project; `react-pipeline ui` starts it")
    import httpx  # not in the light installation

    try:
        fault = ask(address)
    except (OSError, httpx.HTTPError) as error:
        fault = str(error).partition("\n")[0] or "timed out"
    if fault:
        remedy = "react-pipeline ui, and wait a minute; or correct its address; no result is lost"
        return Finding(what, "note", f"{address}: {fault}", remedy)
    return Finding(what, "ok", f"{address} answers")


def _daemons(address: str) -> str:
    """Return what is wrong with Dagster's daemon, without which nothing queued ever starts."""
    try:
        answer = json.loads(_ask(f"{address}/graphql", "POST", json={"query": _DAEMONS}))
        daemons = answer["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
        ill = [one["daemonType"] for one in daemons if one["required"] and not one["healthy"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "something else answers"
    return f"answers; not ticking: {', '.join(map(str, ill)).lower()}" if ill else ""


def _health(address: str) -> str:
    _ask(f"{address}/health")
    return ""


def _ask(url: str, method: str = "GET", **options: Any) -> bytes:
    """Return what a server of ours answers. Whatever answers there, it ends."""
    import httpx

    data, deadline = b"", time.monotonic() + SERVER_TIMEOUT_SECONDS
    options |= {"timeout": SERVER_TIMEOUT_SECONDS, "follow_redirects": True}
    headers = {"Accept-Encoding": "identity"}
    with httpx.stream(method, url, headers=headers, **options) as response:
        response.raise_for_status()
        for part in response.iter_raw():
            data += part
            if len(data) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                raise OSError("its answer does not end")
    return data
