"""`react-pipeline status` where Dagster has runs: what failed, why, and what it cannot know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import EngineEventData
from dagster._utils.error import SerializableErrorInfo
from support.commands import status
from support.launch import dagster_home
from support.upkeep import METHODS, build_all

from react_pipeline.assets.partitions import DOMAINS, partitions_of
from react_pipeline.assets.resources import ProjectResource
from react_pipeline.extensions.automation.assets.last_runs import INPUTS_TAG, ending_of
from react_pipeline.extensions.automation.survey import survey
from react_pipeline.project.project import Project
from react_pipeline.stage import STAGES

PLACE = ("customized_checkpoint", "shapes/gated-image")


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    project = make_project(methods=list(METHODS))
    (project.config.domains / "colours.yaml").unlink()
    build_all(project, ["shapes"], until="retrieved_set")
    return project


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with dagster_home(tmp_path / "home") as home:
        yield home


def fail(home: Path, **tags: str) -> None:
    """A run of the checkpoint that is due, with a reason that no other has."""

    partitions = partitions_of(STAGES[PLACE[0]], METHODS, ProjectResource())

    @dg.asset(name=PLACE[0], partitions_def=partitions)
    def training() -> None:
        raise dg.Failure("the loss is not finite", allow_retries=False)

    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.add_dynamic_partitions(DOMAINS, ["shapes"])
        dg.materialize(
            [training],
            instance=instance,
            partition_key="shapes|gated-image",
            tags=tags,
            raise_on_error=False,
        )


def due(project: Project) -> str:
    (task,) = [task for task in survey(project, ["shapes"]).tasks if task.place == PLACE]
    return task.inputs


def test_a_failure_with_these_inputs_stops_nothing_else(project: Project, home: Path) -> None:
    fail(home, **{INPUTS_TAG + PLACE[0]: due(project)})
    lines = status(project)
    (failed,) = [
        line
        for line in lines
        if line.startswith("shapes failed customized_checkpoint of gated-image")
    ]
    assert "failed: the loss is not finite" in failed
    assert [
        line for line in lines if line.startswith("shapes failed domain_results of gated-image")
    ]
    assert [line for line in lines if line.startswith("shapes out of date comparison")]
    assert not [line for line in lines if line.startswith("note:")]


def test_a_run_that_was_not_launched_says_why() -> None:
    @dg.job
    def empty() -> None:
        pass

    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(empty)
        error = SerializableErrorInfo("LaunchError: no code server\n", [], "LaunchError")
        instance.report_engine_event("not launched", run, EngineEventData.engine_error(error))
        instance.report_engine_event("dropped from the queue", run)
        instance.report_run_failed(run)
        failed = instance.get_run_by_id(run.run_id)
        assert ending_of(instance, failed, "").text.endswith("failed: LaunchError: no code server")


def test_what_failed_by_hand_is_reported_beside_the_reason(project: Project, home: Path) -> None:
    fail(home)
    reported = " ".join(status(project))
    assert "'shapes/gated-image'" in reported
    assert "failed: the loss is not finite" in reported


def test_a_failure_with_other_inputs_is_only_out_of_date(project: Project, home: Path) -> None:
    fail(home, **{INPUTS_TAG + PLACE[0]: "another"})
    (line,) = [
        line
        for line in status(project)
        if line.startswith("shapes out of date customized_checkpoint")
    ]
    assert "the loss is not finite" not in line


@pytest.mark.parametrize("storage", ["storage", "run_storage"])
def test_unreadable_runs_are_reported_and_hide_nothing_else(
    project: Project, home: Path, storage: str
) -> None:
    (home / "dagster.yaml").write_text(f"{storage}:\n  nonsense: 1\n")
    lines = status(project)
    assert [line for line in lines if line.startswith("shapes out of date customized_checkpoint")]
    assert "note: failed runs are not shown: Dagster's runs cannot be read: " in " ".join(lines)


def test_where_there_are_no_runs_it_says_so_and_makes_nothing(project: Project, home: Path) -> None:
    before = sorted(home.rglob("*"))
    assert "note: failed runs are not shown: there are no runs here" in " ".join(status(project))
    assert sorted(home.rglob("*")) == before
