"""Retention: off until a person switches it on; what is shown now stays."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import dagster as dg
from support.launch import repository
from support.upkeep import build, change_pipeline, edit_domain

from react_pipeline.assets.resources import ProjectResource
from react_pipeline.extensions.operations.assets import remove_runs
from react_pipeline.project.project import Project
from react_pipeline.retrieval.decontamination import VECTORS

LATER = datetime.now(UTC) + timedelta(days=1)
partitions = dg.StaticPartitionsDefinition(["a", "b"])


@dg.asset(partitions_def=partitions)
def parted() -> None:
    pass


@dg.asset
def whole() -> None:
    pass


@dg.asset
def beside() -> None:
    pass


@dg.asset
def failing() -> None:
    raise ValueError


def test_runs_that_made_what_is_shown_stay() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        options = {"instance": instance, "raise_on_error": False}
        old = [
            dg.materialize([parted], partition_key="a", **options),
            dg.materialize([whole], **options),
            dg.materialize([failing], **options),
        ]
        new = [
            dg.materialize([beside, whole], **options),
            dg.materialize([parted], partition_key="a", **options),
            dg.materialize([parted], partition_key="b", **options),
            dg.materialize([whole], **options),
        ]
        assert remove_runs(instance, datetime.now(UTC) - timedelta(days=1), ProjectResource()) == 0
        assert remove_runs(instance, LATER, ProjectResource(key_prefix=("birds",))) == 0
        assert remove_runs(instance, LATER, ProjectResource()) == 3
        assert not any(instance.has_run(result.run_id) for result in old)
        assert all(instance.has_run(result.run_id) for result in new)
        assert instance.get_materialized_partitions(parted.key) == {"a", "b"}
        assert remove_runs(instance, LATER, ProjectResource()) == 0


def test_the_job_removes_what_is_old(tiny_project: Project) -> None:
    project = change_pipeline(tiny_project, retention={"artifact_days": 1})
    old = build(project, "evaluation_set", "shapes")
    edit_domain(project, "shapes", evaluation={"name": "o", "kind": "folder", "path": "."})
    new = build(project, "evaluation_set", "shapes")
    assert old.path != new.path
    for path in old.path.parent.rglob("*"):
        os.utime(path, (0, 0))  # replaced in 1970
    vectors = project.config.store / VECTORS / "x-y.npy"
    vectors.parent.mkdir(parents=True)
    vectors.touch()
    os.utime(vectors, (0, 0))
    job = repository(project).get_job("retention")
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance)
    assert result.success
    assert new.path.exists() and not old.path.exists() and not vectors.exists()
