"""Artifacts made in milliseconds, for tests of what is outdated.

They are published by the real store from the real lineage; what is in them is made up, since upkeep
reads only manifests, the pairs' digests and the inventory of shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from react_pipeline.evaluation.comparison import collect_evidence
from react_pipeline.extensions.automation.survey import survey
from react_pipeline.lineage import fresh_or_none, resolve, run
from react_pipeline.project.project import Project
from react_pipeline.stage import ALL, STAGES, method_key
from react_pipeline.store.artifacts import Artifact

METHODS = ("base", "gated-image")


def build(
    project: Project, stage: str, key: str = ALL, images: Sequence[str] = ("a", "b")
) -> Artifact:
    """Publish a stage as it would be built today, with made-up files."""
    if stage == "corpus":
        return run(project, stage, key)
    parents, content = None, None
    if stage in ("comparison", "benchmark_comparison", "dense_comparison"):
        (results,) = STAGES[stage].gathers
        measured = {
            method: fresh_or_none(project, results, method_key(key, method)) for method in METHODS
        }
        parents = {method: result for method, result in measured.items() if result}
        if stage == "comparison":
            parents |= {
                name: one.publish(project) for name, one in collect_evidence(project, key).items()
            }
        content = {"skipped": {}}

    def write(directory: Path, _: object) -> dict[str, Any]:
        pd.DataFrame({"image_sha256": list(images)}).to_parquet(directory / "pairs.parquet")
        return {"pairs": len(images), "starving": [], "starving_fraction": float(not images)}

    def step(project: Project, *_: str) -> Artifact:
        return project.store.build(
            resolve(project, stage, key, parents=parents, content=content), write
        )

    return run(project, stage, key, step)


def build_all(
    project: Project,
    slugs: Sequence[str],
    until: str = "comparison",
    images: Sequence[str] = ("a", "b"),
) -> None:
    """Build what is asked for, round after round, up to a stage."""
    built: set[str] = set()
    while until not in built:
        tasks = [
            task
            for task in survey(project, slugs).tasks
            if task.stage not in ("promotion", "overview")
        ]
        built = {task.stage for task in tasks} or {until}
        for task in tasks:
            build(project, *task.place, images)


def change_pipeline(project: Project, **sections: Any) -> Project:
    """Change pipeline.yaml, field by field."""
    raw = yaml.safe_load(project.path.read_text())
    for name, fields in sections.items():
        raw[name] = {**raw.get(name, {}), **fields} if isinstance(fields, dict) else fields
    project.path.write_text(yaml.safe_dump(raw))
    return Project.load(project.path)


def edit(path: Path, **fields: Any) -> None:
    """Change fields of a YAML file."""
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **fields}))


def edit_domain(project: Project, slug: str, **fields: Any) -> None:
    """Change fields of a domain's file."""
    edit(project.config.domains / f"{slug}.yaml", **fields)


def with_base(project: Project) -> Project:
    """The project with its corpus and its base published; its embeddings come next."""
    for stage in ("corpus", "base_checkpoint"):
        run(project, stage, ALL)
    return project
