"""Seconds of the processor and of the wall for 10, 100, 1,000, 3,000 domains: of a tick of the
sensor `upkeep` when nothing is due, after one change, and when all checkpoints are due; of commands
when nothing is due; of building the overview, with the megabytes of its page.

Artifacts are published by the real store from the real lineage; what is in them is made up, also
the runs of Dagster and MLflow that show them. Every domain has a folder of labelled images. The
first tick of a process reads everything, later ones what has changed. What is asked for is queued
as the daemon does, and no run is started.

    python -m benchmarks.ticks --domains 10 100 1000 3000 [--store s3://BUCKET]
    [--storage postgresql+psycopg2://USER@HOST:PORT/NAME]

`--storage` is an empty database for Dagster's runs and events; without it they are in SQLite.
`--store` is a bucket for artifacts, reached as `docs/production.md` says; without it they are on
disk.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import numpy as np
import yaml

from react_pipeline.assets.definitions import build_defs
from react_pipeline.assets.launch import QUIET, _register, open_local
from react_pipeline.assets.partitions import DOMAINS, partitions_of
from react_pipeline.assets.reporting import DATA_VERSION_TAG
from react_pipeline.assets.resources import ProjectResource
from react_pipeline.evaluation import EvalResult
from react_pipeline.evaluation.comparison import GAINS
from react_pipeline.evaluation.tables import typed
from react_pipeline.lineage import fresh, resolve, run
from react_pipeline.project import Manifests, Project
from react_pipeline.promotion import Contender, Verdict
from react_pipeline.promotion.case import case_of
from react_pipeline.promotion.verdicts import VERDICT_FILE
from react_pipeline.stage import ALL, STAGES, method_key
from react_pipeline.store import Artifact
from react_pipeline.tracking import Tracking

LOOKS = {
    "overview": [
        "-c",
        "from react_pipeline.lineage import run; from react_pipeline.project import Project; "
        "run(Project.load(), 'overview', 'all')",
    ],
    "results": ["-m", "react_pipeline", "results", "--format", "csv"],
    "definitions": ["-c", "import react_pipeline.assets.definitions as it; it.defs"],
    "status": ["-m", "react_pipeline", "status"],
    "materialize": ["-m", "react_pipeline", "materialize", "--select", "promotion"],
}
"""Arguments of Python for what reads the whole project."""

METHODS = ["base", "gated-image", "gated-image-control", "locked-text", "linear-head"]
CLASSES, IMAGES = 20, 40


def main() -> None:
    """Print a table with a row for each number of domains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--domains", type=int, nargs="+", default=[10, 100, 1_000, 3_000])
    parser.add_argument("--storage", help="URL of a PostgreSQL database")
    parser.add_argument("--store", help="URL of a bucket, which each number gets a prefix of")
    parser.add_argument("--following", type=int, default=3, help="ticks after all was due")
    given = parser.parse_args()
    logging.disable(logging.INFO)
    heads = ["domains", "artifacts", "page", *LOOKS, "first tick", "next tick", "one domain edited"]
    heads += ["all due", "asked for", "following ticks", "asked for"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for count in given.domains:
        with tempfile.TemporaryDirectory() as directory:
            project = _project(Path(directory), count, given.store and f"{given.store}/{count}")
            print(_row(project, count, given.storage, given.following), flush=True)


def _row(project: Project, count: int, storage: str | None, following: int) -> str:
    slugs = [f"domain-{number}" for number in range(count)]
    builder = multiprocessing.Process(
        target=_build_all, args=(project, slugs)
    )  # so that nothing is parsed here yet
    builder.start()
    builder.join()
    assert builder.exitcode == 0
    looks = [_seconds_of(project, arguments) for arguments in LOOKS.values()]
    # Without changing this process's DAGSTER_HOME, which the next project would use, too.
    with dg.DagsterInstance.from_config(str(project.path.parent / "dagster_home")) as instance:
        assert instance.get_runs_count() == 1, "something was built again"
    page = project.store.current("overview", ALL).file("dashboard.html").stat().st_size
    home = project.path.parent / "home"
    home.mkdir()
    section = {"storage": {"postgres": {"postgres_url": storage}}} if storage else {}
    (home / "dagster.yaml").write_text(yaml.safe_dump(section))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.add_dynamic_partitions(DOMAINS, slugs)
        ticks = Ticks(project, instance)
        for _ in range(2):
            requests = ticks.tick()
            assert not requests, requests[:3]
        path = project.config.domains / "domain-0.yaml"
        path.write_text(path.read_text() + "templates: [a sketch of a {}]\n")
        assert ticks.tick()
        project.path.write_text(
            project.path.read_text() + "customization: {defaults: {steps: 7}}\n"
        )
        requests = []
        for _ in range(1 + following):
            requests.append(ticks.tick())
            ticks.queue(requests[-1])
    places = [(*request.asset_selection, request.partition_key) for request in sum(requests, [])]
    assert len(places) == len(set(places)), "asked for twice"
    idle, later = ticks.seconds[:4], np.array(ticks.seconds[4:])
    times = " | ".join(_shown(*seconds) for seconds in [*looks, *idle])
    rest = f"{len(requests[0])} | {_shown(*later.mean(0))} | {len(places) - len(requests[0])}"
    artifacts = sum(len(project.store.keys(stage)) for stage in STAGES)
    return f"| {count:,} | {artifacts:,} | {page / 1e6:.1f} MB | {times} | {rest} |"


def _shown(processor: float, wall: float) -> str:
    return f"{processor:.2f} s, {wall:.2f} s"


def _seconds_of(project: Project, arguments: list[str]) -> tuple[float, float]:
    """Seconds of the processor and of the wall of a fresh process, with the import of its
    libraries.
    """
    began = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "REACT_PIPELINE_CONFIG": str(project.path)}
    subprocess.run(  # noqa: S603
        [sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return processor, time.monotonic() - began


class Ticks:
    """Ticks of the sensor as the daemon evaluates it; `seconds` of processor and wall for each."""

    def __init__(self, project: Project, instance: dg.DagsterInstance) -> None:
        """Load the definitions."""
        self.instance, self.seconds = instance, list[tuple[float, float]]()
        resource = ProjectResource(config_path=str(project.path))
        self._repository = build_defs(project=resource).get_repository_def()

    def tick(self) -> list[dg.RunRequest]:
        """What one tick asks for."""
        context = dg.build_sensor_context(
            instance=self.instance,
            repository_def=self._repository,
        )
        processor, wall = time.process_time(), time.monotonic()
        data = self._repository.get_sensor_def("upkeep").evaluate_tick(context)
        self.seconds.append((time.process_time() - processor, time.monotonic() - wall))
        return list(data.run_requests or ())

    def queue(self, requests: list[dg.RunRequest]) -> None:
        """Create the runs, which no process executes."""
        for request in requests:
            (asset,) = request.asset_selection
            job = dg.Definitions(assets=[_asset(asset)]).resolve_implicit_global_asset_job_def()
            started = dg.DagsterRunStatus.STARTED
            self.instance.create_run_for_job(
                job, status=started, tags=request.tags, asset_selection=frozenset([asset])
            )


@cache
def _asset(key: dg.AssetKey) -> dg.AssetsDefinition:
    stage = STAGES[key.path[-1]]

    @dg.asset(key=key, partitions_def=partitions_of(stage, METHODS, ProjectResource()))
    def made() -> None: ...

    return made


def _project(directory: Path, count: int, store: str | None) -> Project:
    (directory / "domains").mkdir()
    (directory / "shards").mkdir()
    classes = [f"class number {number}" for number in range(CLASSES)]
    for number in range(count):
        images = directory / "images" / str(number)
        images.mkdir(parents=True)
        for image in range(IMAGES):
            (images / f"{image}.png").write_bytes(b"x")
        domain = {
            "classes": classes,
            "evaluation": {"name": "own", "kind": "folder", "path": str(images)},
        }
        (directory / "domains" / f"domain-{number}.yaml").write_text(yaml.safe_dump(domain))
    pipeline = {
        "project": "ticks",
        "methods": METHODS,
        "encoder": {"model": "ViT-B-32", "pretrained": "openai"},
        "corpus": {"kind": "webdataset", "shards": [str(directory / "shards" / "*.tar")]},
    }
    if store:
        pipeline["store"] = store
    (directory / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))
    return Project.load(directory / "pipeline.yaml")


def _build_all(project: Project, slugs: list[str]) -> None:
    with patch("os.fsync"):
        for row in STAGES.values():
            if row.group not in ("benchmark", "dense"):
                look = Manifests.of(project)  # of the parents, which earlier rows have built
                for key in row.keys(slugs, METHODS) if row.name != "overview" else ():
                    _build(project, look, row.name, key)
    _show(project, slugs)


def _show(project: Project, slugs: list[str]) -> None:
    """Let MLflow and Dagster show domain files and promotions, as after a run of each."""
    promotions = [project.store.current("promotion", slug) for slug in slugs]
    runs = Tracking.of(project).runs
    client = runs.connect()

    @dg.op
    def made() -> Iterator[Any]:
        for artifact in promotions:
            tags = {"asset": artifact.stage, "fingerprint": artifact.fingerprint}
            client.set_terminated(client.create_run(runs.experiment_id, tags=tags).info.run_id)
            tags = {DATA_VERSION_TAG: artifact.fingerprint}
            yield dg.AssetMaterialization(artifact.stage, partition=artifact.key, tags=tags)
        yield dg.Output(None)

    @dg.job
    def show() -> None:
        made()

    with open_local(project) as instance:
        _register(instance, project, slugs)
        assert show.execute_in_process(instance=instance, run_config=QUIET).success


def _build(project: Project, look: Manifests, stage: str, key: str) -> None:
    slug, _, method = key.partition("/")
    parents: dict[str, Any] | None = None
    content: Any = None
    files: dict[str, str | bytes] = {"report.json": json.dumps({"stage": stage})}
    if stage == "comparison":
        parents = {
            method: fresh(look, "domain_results", method_key(slug, method)) for method in METHODS
        }
        content = {"skipped": {}}
        files |= _comparison(slug)
    elif stage == "promotion":
        case = case_of(look, slug)
        content = {"results": case.seen(case.champion)}
        base = Contender(method="base")
        verdict = Verdict(
            domain=slug, decision="nothing", reason="made up", champion_before=base, champion=base
        )
        files[VERDICT_FILE] = verdict.model_dump_json()
    elif stage == "domain_results":
        about = {
            "dataset": "own",
            "domain": slug,
            "method": method,
            "evaluator_version": "1",
            "n_classes": CLASSES,
        }
        made_from = {"checkpoint_fingerprint": "0", "evaluation_set_fingerprint": "0"}
        classes = [
            {"name": f"class {n}", "images": 2, "correct": 1, "correct_top5": 2}
            for n in range(CLASSES)
        ]
        result = EvalResult(
            **about,
            **made_from,
            n=IMAGES,
            top1=0.5,
            top5=1.0,
            mean_per_class=0.5,
            per_class=classes,
        )
        files["result.json"] = result.model_dump_json()

    def write(folder: Path, _: object) -> dict[str, Any]:
        for name, content in files.items():
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return {"pairs": 1, "top1": 0.5}

    def step(project: Project, *_: str) -> Artifact:
        return project.store.build(
            resolve(look, stage, key, parents=parents, content=content), write
        )

    run(project, stage, key, step)


def _comparison(slug: str) -> dict[str, str | bytes]:
    """The files of a comparison that an overview reads."""
    rows, gains = [], {}
    for place, method in enumerate(METHODS):
        gained = place * (int(slug.partition("-")[2]) % 5)
        others = {"base": gained, f"{method}-control": gained // 2}
        row = {"domain": slug, "method": method, "dataset": "own", "status": "ok", "n": IMAGES}
        row |= {"pairs": 1_000, "trainable_parameters": 10**place, "top1": 0.5 + gained / IMAGES}
        gains[method] = {name: (count, 0, IMAGES) for name, count in others.items()}
        if method != "base":
            row["delta_top1"] = gained / IMAGES
            row |= {"delta_low": row["delta_top1"] - 0.1, "delta_high": row["delta_top1"] + 0.1}
        rows.append(row)
    return {
        "table.parquet": typed(rows).to_parquet(None, index=False),
        GAINS: json.dumps({"evaluator_version": "1", "gains": gains}),
    }


if __name__ == "__main__":
    main()
