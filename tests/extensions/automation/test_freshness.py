"""Freshness as the UI shows it: checks of what is out of date, reported again when the answer
changes.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator

import dagster as dg
import pytest
from support.upkeep import build, build_all, change_pipeline, edit_domain

from react_pipeline.assets.declared import checks_of
from react_pipeline.assets.partitions import DOMAINS
from react_pipeline.assets.resources import ProjectResource
from react_pipeline.assets.runs import LAUNCH_TAG, lock_of
from react_pipeline.extensions.automation.assets.freshness import CHECKS, freshness
from react_pipeline.project.project import Project
from react_pipeline.stage import STAGES

PAIRS, CHECKPOINTS = CHECKS


class Home:
    """An instance with the domain `shapes`, and ticks of the sensor on it."""

    def __init__(self, project: Project, instance: dg.DagsterInstance) -> None:
        self.resource = ProjectResource(config_path=str(project.path))
        self.instance = instance
        instance.add_dynamic_partitions(DOMAINS, ["shapes"])

    def tick(self) -> dict[str, dg.AssetCheckEvaluation]:
        """One tick, carried out as the daemon does; what it reported, by asset."""
        context = dg.build_sensor_context(instance=self.instance)
        result = freshness(context, project=self.resource)
        for event in result.asset_events:
            self.instance.report_runless_asset_event(event)
        return {event.asset_key.path[-1]: event for event in result.asset_events}

    def shown(self, stage: str) -> dg.AssetCheckEvaluation | None:
        """The evaluation that the UI shows; None if the last one was only planned."""
        key = dg.AssetCheckKey(dg.AssetKey(stage), CHECKS[stage])
        last = self.instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[
            key
        ].evaluation
        return last if isinstance(last, dg.AssetCheckEvaluation) else None


def check_of_checkpoints(resource: ProjectResource) -> dg.AssetChecksDefinition:
    return next(
        found
        for found in checks_of(STAGES.values(), {}, resource)
        if CHECKS[CHECKPOINTS] in {key.name for key in found.check_keys}
    )


@pytest.fixture
def trained(make_project: Callable[..., Project]) -> Project:
    project = make_project(methods=["base", "gated-image"], automation={"changed_fraction": 0.5})
    build_all(project, ["shapes"])
    return project


@pytest.fixture
def home(trained: Project) -> Iterator[Home]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Home(trained, instance)


def test_what_is_fresh_passes_and_is_reported_once(home: Home) -> None:
    assert {stage: event.passed for stage, event in home.tick().items()} == {
        PAIRS: True,
        CHECKPOINTS: True,
    }
    assert home.tick() == {}
    assert home.shown(PAIRS).description == "0 of 1 out of date"


def test_a_changed_domain_warns_until_it_is_built_again(trained: Project, home: Home) -> None:
    home.tick()
    edit_domain(trained, "shapes", templates=["a sketch of a {}"])
    reported = home.tick()
    assert reported[PAIRS].severity == dg.AssetCheckSeverity.WARN and not reported[PAIRS].blocking
    assert (
        "shapes: " in reported[PAIRS].description
        and "was built with another" in reported[PAIRS].description
    )
    assert not home.shown(PAIRS).passed and not home.shown(CHECKPOINTS).passed
    for stage in ("evaluation_set", "retrieved_set"):
        build(trained, stage, "shapes", images=["x", "y"])
    reported = home.tick()
    assert reported[PAIRS].passed and home.shown(PAIRS).passed
    assert "shapes/gated-image: " in reported[CHECKPOINTS].description
    assert "`retrieved_set`" in reported[CHECKPOINTS].description
    build(trained, "customized_checkpoint", "shapes/gated-image")
    assert set(home.tick()) == {CHECKPOINTS} and home.shown(CHECKPOINTS).passed


def test_checkpoint_that_the_policy_holds_back_says_so(trained: Project, home: Home) -> None:
    edit_domain(trained, "shapes", templates=["a sketch of a {}"])
    for stage in ("evaluation_set", "retrieved_set"):
        build(trained, stage, "shapes")  # the same images as before
    reported = home.tick()[CHECKPOINTS]
    assert not reported.passed
    assert "held back by the policy: 0.0% of its pairs changed" in reported.description
    change_pipeline(trained, automation={"training": "always"})
    assert "held back" not in home.tick()[CHECKPOINTS].description


def test_a_missing_check_of_a_run_is_made_up_for(trained: Project, home: Home) -> None:
    home.tick()

    @dg.asset(name=CHECKPOINTS)
    def failing() -> None:
        raise dg.Failure("out of memory", allow_retries=False)

    check = dg.materialize(
        [failing, check_of_checkpoints(home.resource)],
        instance=home.instance,
        raise_on_error=False,
    )
    assert not check.success and home.shown(CHECKPOINTS) is None
    assert set(home.tick()) == {CHECKPOINTS} and home.shown(CHECKPOINTS).passed


def test_check_that_runs_with_a_materialization_says_the_same(trained: Project, home: Home) -> None:
    @dg.asset(name=CHECKPOINTS)
    def made() -> None:
        pass

    edit_domain(trained, "shapes", templates=["a sketch of a {}"])
    reported = home.tick()[CHECKPOINTS]
    done = dg.materialize([made, check_of_checkpoints(home.resource)], instance=home.instance)
    (evaluation,) = done.get_asset_check_evaluations()
    assert (evaluation.passed, evaluation.description) == (reported.passed, reported.description)
    assert not reported.passed
    assert home.tick() == {}


def test_nothing_built_is_nothing_reported(tiny_project: Project) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert Home(tiny_project, instance).tick() == {}


def test_broken_pipeline_file_is_reported_and_changes_nothing(trained: Project, home: Home) -> None:
    home.tick()
    text = trained.path.read_text()
    trained.path.write_text("store: 3\n")
    assert home.tick() == {}
    trained.path.write_text(text)
    assert home.tick() == {}


def test_run_of_a_launch_that_was_killed_is_closed(home: Home) -> None:
    @dg.job
    def empty() -> None:
        pass

    started = dg.DagsterRunStatus.STARTED
    launch = f"{platform.node()} killed"
    lock_of(home.instance, launch).parent.mkdir(parents=True, exist_ok=True)
    lock_of(home.instance, launch).touch()
    dead = home.instance.create_run_for_job(empty, status=started, tags={LAUNCH_TAG: launch})
    other = home.instance.create_run_for_job(empty, status=started)
    home.tick()
    assert home.instance.get_run_by_id(dead.run_id).status == dg.DagsterRunStatus.FAILURE
    assert home.instance.get_run_by_id(other.run_id).status == started
