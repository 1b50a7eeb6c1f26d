"""Diagnosis: what a machine and a project have, what is missing, and how to get it.

Belongs here: looking, quickly; asking the servers whether they answer. Does not belong here:
repairing anything.
"""

import asyncio
import json
import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import httpx
from rich.filesize import decimal

from react_pipeline.embedding import INSTALL_CLIP_RETRIEVAL
from react_pipeline.extension import CORE, extensions
from react_pipeline.extensions.alerts import AlertsConfig, problems
from react_pipeline.extensions.automation import AutomationConfig
from react_pipeline.extensions.demo import missing_packages
from react_pipeline.installation import install_command
from react_pipeline.lineage import fresh_or_none
from react_pipeline.preflight import (
    corpus_problems,
    encoder_problems,
    file_problems,
    servers_of_weights,
    store_problems,
    subject_problems,
)
from react_pipeline.project import (
    CONFIG_VARIABLE,
    HOME_VARIABLE,
    SETTINGS_FILE,
    Manifests,
    Project,
    locate_home,
    ui_addresses,
)
from react_pipeline.retrieval import passes, sampled_rows
from react_pipeline.settings import load_domains, without_secrets
from react_pipeline.stage import ALL, CORPUS_EMBEDDINGS, STAGES
from react_pipeline.store import ConfigError, InputError, ReactError
from react_pipeline.tracking import (
    DAGSTER_VARIABLE,
    MLFLOW_VARIABLE,
    Tracking,
    dagster_url,
    mlflow_url,
)

PACKAGES = (
    "torch",
    "open_clip_torch",
    "clip-retrieval",
    "faiss-cpu",
    "dagster",
    "dagster-webserver",
    "mlflow",
)
MIN_FREE_BYTES = 5_000_000_000
SERVER_TIMEOUT_SECONDS = 5
MAX_ANSWER_BYTES = 32 << 20

_OWN = "react_pipeline."
_NONE = "none of this project; `react-pipeline ui` starts it"
_DAEMONS = "{instance{daemonHealth{allDaemonStatuses{daemonType required healthy}}}}"


@dataclass(frozen=True)
class Finding:
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
        if (
            config_path is None
            and not os.environ.get(CONFIG_VARIABLE)
            and not Path("pipeline.yaml").exists()
        ):
            remedy = (
                "`react-pipeline init` writes one; or run this in the folder that has yours, or "
                "give --config"
            )
            return [*findings, Finding("pipeline.yaml", "note", f"none in {Path.cwd()}", remedy)]
        return [
            *findings,
            Finding(
                "pipeline.yaml", "missing", str(error), "fix the file, or give another: --config"
            ),
        ]
    findings.append(Finding("pipeline.yaml", "ok", str(project.path)))
    looked = [
        *_demo(project),
        *_alerts(project),
        *_inputs(project),
        *_store(project),
        _tracking(project),
        _automation(project),
        _dagster_home(project),
    ]
    urls = ui_addresses(locate_home(project.path.parent))
    return [
        *findings,
        *looked,
        _dagster_server(project, urls.get("dagster", "")),
        *_mlflow_server(project, urls.get("mlflow", "")),
    ]


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            remedy = (
                INSTALL_CLIP_RETRIEVAL if name == "clip-retrieval" else install_command("pipeline")
            )
            yield Finding(name, "missing", "not installed", remedy)


def _device() -> Iterator[Finding]:
    """What `device: auto` and `precision: auto` select, with the measurement behind the latter."""
    try:
        import torch

        from react_pipeline.clip import choose_device, choose_precision, gpu_problem, speedup
    except (ImportError, OSError) as error:  # OSError: its libraries do not fit this system's
        yield Finding("device", "missing", f"torch cannot be imported: {error}")
        return
    device = choose_device("auto")
    if device == "cuda":
        yield Finding(
            "device",
            "ok",
            f"{torch.cuda.device_count()} GPUs, the first: {torch.cuda.get_device_name()}",
        )
    elif problem := gpu_problem():
        detail, _, remedy = problem.partition("; ")
        yield Finding("device", "note", detail, remedy)
    else:
        yield Finding("device", "ok", f"CPU, {os.cpu_count()} cores; no NVIDIA GPU here")
    ratio = f"a bf16 matrix product takes {1 / speedup('bf16', device):.2g} times as long as fp32"
    yield Finding("precision", "ok", f"auto is {choose_precision('auto', device)} here: {ratio}")


def _inputs(project: Project) -> Iterator[Finding]:
    yield from _encoder(project)
    yield from _corpus(project)
    domains, problems = load_domains(project.config.domains)
    detail = f"{len(domains)} in {project.config.domains}: {', '.join(sorted(domains)) or 'none'}"
    yield Finding(
        "domains",
        "ok" if domains else "missing",
        detail,
        "" if domains else "react-pipeline domains add FILE",
    )
    for problem in problems:
        yield Finding("domains", "missing", str(problem), "fix this file")
    for slug, domain in domains.items():
        for problem in file_problems(project.config.domains / f"{slug}.yaml", domain):
            yield Finding("domains", "missing", str(problem), "fix this file")
        with suppress(ReactError):  # `_filters` reports it
            for problem in subject_problems(project, slug):
                yield Finding("domains", "note", str(problem))
    yield from _filters(project, domains)


def _filters(project: Project, slugs: Iterable[str]) -> Iterator[Finding]:
    """Whether each `where` is true or false of rows of the corpus, once that is embedded."""
    filters: set[str] = set()
    for slug in slugs:
        try:
            if where := project.retrieval(slug).where:
                filters.add(where)
        except ReactError as error:
            yield Finding("domains", "missing", str(error), "fix this file")
    if not filters:
        return
    # Reported elsewhere: packages, corpus and store by other checks, damage by `status`.
    with suppress(ImportError, ReactError):
        if embeddings := fresh_or_none(Manifests.of(project), CORPUS_EMBEDDINGS, ALL):
            for where in sorted(filters):
                try:
                    passes(embeddings, sampled_rows(embeddings), where)
                except InputError as error:
                    yield Finding("filter", "missing", str(error), "correct `where`")


def _corpus(project: Project) -> Iterator[Finding]:
    try:
        description = project.config.corpus.description()
    except ReactError as error:
        remedy = f"put captioned pictures there, or correct `corpus` in {project.path.name}"
        yield Finding("corpus", "missing", str(error), remedy)
        return
    # A kind may describe itself by some of its fields alone.
    problems = corpus_problems(project)
    for problem in problems:
        yield Finding("corpus", "missing", str(problem), "fix this file")
    if not problems:
        yield Finding("corpus", "ok", description)


def _encoder(project: Project) -> Iterator[Finding]:
    try:
        problems = encoder_problems(project)
    except (ImportError, OSError):  # reported as a package
        return
    for problem in problems:
        yield Finding(
            "encoder", "missing", str(problem), f"correct `encoder` in {project.path.name}"
        )
    if problems:
        return
    from react_pipeline.clip import unreachable

    servers = servers_of_weights(project)
    for field in ("encoder", "retrieval_encoder"):
        encoder = getattr(project.config, field)
        if encoder is None:
            continue
        detail = f"{encoder.model} {encoder.pretrained or ''}".strip()
        server = servers.get(field, "")
        if why := server and unreachable(server):
            remedy = f"connect this machine, or give `{field}.pretrained` a local checkpoint's path"
            yield Finding(field, "missing", f"{detail}: its weights are not here: {why}", remedy)
        else:
            where = f"; the first run fetches its weights from {server}" if server else ""
            yield Finding(field, "ok", f"{detail}{where}")


def _demo(project: Project) -> Iterator[Finding]:
    config = project.config
    if "demo" in (config.corpus.kind, config.encoder.model, config.retrieves_with.model):
        if missing := missing_packages():
            detail = f"not installed: {', '.join(missing)}"
            yield Finding("demo", "missing", detail, install_command("demo"))
        else:
            yield Finding("demo", "ok", "all packages there")


def _alerts(project: Project) -> Iterator[Finding]:
    names = project.config.section(AlertsConfig).to
    faults = list(problems(names))
    for fault in faults:
        yield Finding("alerts", "missing", fault, "set it where the Dagster daemon runs")
    if names and not faults:
        yield Finding("alerts", "ok", ", ".join(names))


def _extensions() -> Iterator[Finding]:
    """List the installed extensions."""
    others = {name: one for name, one in extensions().items() if name != CORE.name}
    own = {name for name, one in others.items() if type(one).__module__.startswith(_OWN)}
    names = ", ".join(sorted(others.keys() - own)) or "none"
    yield Finding("extensions", "ok", f"{len(own)} of this package; from other packages: {names}")


def _store(project: Project) -> Iterator[Finding]:
    root = project.config.store
    existing = next(path for path in (root, *root.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        yield Finding(
            "store", "missing", f"{root}: no right to write", "change `store` in pipeline.yaml"
        )
        return
    try:
        if problems := store_problems(project):
            raise ConfigError(problems)
        store = Manifests.of(project).store
        built = sum(len(store.keys(stage)) for stage in STAGES)
    except ReactError as error:
        yield Finding("store", "missing", str(error))
        return
    free = shutil.disk_usage(existing).free
    where = f"{project.config.store_url}, here {root}" if project.config.store_url else str(root)
    yield Finding(
        "store",
        "ok" if free > MIN_FREE_BYTES else "note",
        f"{where}: {built} current artifacts, {decimal(free)} free",
    )


def _tracking(project: Project) -> Finding:
    tracking = Tracking.of(project)
    detail = without_secrets(tracking.uri)
    if not tracking.uri.startswith("http"):
        return Finding("tracking", "ok", detail)
    try:
        _ask(f"{tracking.uri.rstrip('/')}/health")
    except (OSError, httpx.HTTPError) as error:
        remedy = "results are safe and are logged when it answers again"
        return Finding("tracking", "note", f"{detail}: {error}", remedy)
    return Finding("tracking", "ok", detail)


def _automation(project: Project) -> Finding:
    automation = project.config.section(AutomationConfig)
    if not automation.enabled:
        return Finding(
            "automation",
            "ok",
            "off; `automation.enabled` or the Automation page of Dagster starts it",
        )
    methods = ", ".join(project.config.methods)
    return Finding(
        "automation",
        "ok",
        f"keeps up {methods}; training: {automation.training}; needs Dagster's daemon",
    )


def _dagster_server(project: Project, ui_url: str) -> Finding:
    """Whether Dagster answers, and whether its daemon ticks: without it nothing queued ever
    starts.
    """
    address = dagster_url(project) or ui_url
    if not address:
        return Finding("dagster server", "ok", _NONE)
    try:
        answer = json.loads(_ask(f"{address}/graphql", json.dumps({"query": _DAEMONS}).encode()))
        daemons = answer["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
        ill = sorted(
            str(one["daemonType"]).lower()
            for one in daemons
            if one["required"] and not one["healthy"]
        )
    except (OSError, httpx.HTTPError) as error:
        return _silent("dagster server", address, error, DAGSTER_VARIABLE)
    except (ValueError, KeyError, TypeError, RecursionError):
        return Finding(
            "dagster server",
            "note",
            f"{address}: something else answers",
            "take another port for one",
        )
    if ill:
        remedy = "start the daemon, as `react-pipeline ui` does; right after a start wait a minute"
        return Finding(
            "dagster server", "note", f"{address} answers; not ticking: {', '.join(ill)}", remedy
        )
    return Finding("dagster server", "ok", f"{address} answers, and its daemon ticks")


def _mlflow_server(project: Project, ui_url: str) -> Iterator[Finding]:
    """Whether a page shows a local database; a server that is the tracking URI itself is reported
    by `tracking`.
    """
    uri = Tracking.of(project).uri
    if uri.startswith("http"):
        return
    address = mlflow_url(project.config.mlflow_url, uri) or ui_url
    if not address:
        yield Finding("mlflow server", "ok", _NONE)
        return
    try:
        _ask(f"{address}/health")
        yield Finding("mlflow server", "ok", f"{address} answers")
    except (OSError, httpx.HTTPError) as error:
        yield _silent("mlflow server", address, error, MLFLOW_VARIABLE)


def _ask(url: str, body: bytes | None = None) -> bytes:
    """Return what a server of ours answers. Whatever answers there, it ends."""
    return asyncio.run(_answer_of(url, body))


async def _answer_of(url: str, body: bytes | None) -> bytes:
    data = b""
    method = "GET" if body is None else "POST"
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    async with (
        asyncio.timeout(SERVER_TIMEOUT_SECONDS),
        httpx.AsyncClient(timeout=None, follow_redirects=True) as client,  # noqa: S113 - as a whole
        client.stream(method, url, content=body, headers=headers) as answer,
    ):
        answer.raise_for_status()
        async for part in answer.aiter_raw():
            data += part
            if len(data) > MAX_ANSWER_BYTES:
                raise OSError(f"its answer is longer than {MAX_ANSWER_BYTES:,} bytes")
    return data


def _silent(what: str, address: str, error: Exception, variable: str) -> Finding:
    if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == 401:
        remedy = (
            f"on the machine itself, past the proxy: {variable}=http://127.0.0.1:PORT "
            "react-pipeline doctor"
        )
        return Finding(what, "ok", f"{address} answers, and asks for a password", remedy)
    words = str(error).partition("\n")[0] or "timed out"
    return Finding(what, "note", f"{address}: {words}", "react-pipeline ui, or correct its address")


def _dagster_home(project: Project) -> Finding:
    home = locate_home(project.path.parent)
    if (home / SETTINGS_FILE).is_file() or not (home.exists() or os.environ.get(HOME_VARIABLE)):
        return Finding("dagster home", "ok", str(home))
    lacks = (
        f"{home} has no {SETTINGS_FILE}, so no limit of the pool, monitoring, retries or retention"
    )
    return Finding("dagster home", "note", lacks, "`react-pipeline ui` and `materialize` write it")
