"""What became of what was asked for: tried again where a fault may pass, reported truthfully where
it does not.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from support import upkeep as made_up
from support.automation import Upkeep, running_daemon, wait_for
from support.launch import dagster_home
from support.upkeep import METHODS, build, build_all, edit_domain

from react_pipeline.assets import declared
from react_pipeline.assets.partitions import DOMAINS, domain_partitions, partition_of
from react_pipeline.assets.reporting import readable_failures
from react_pipeline.assets.resources import ProjectResource
from react_pipeline.evaluation import comparison
from react_pipeline.extensions.automation.assets import last_runs, upkeep_sensor
from react_pipeline.extensions.automation.assets.last_runs import INPUTS_TAG, LastRuns
from react_pipeline.extensions.automation.assets.upkeep_sensor import (
    TRY_TAG,
    WAIT_HOURS,
    code_digest,
)
from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.promotion import case
from react_pipeline.promotion.decision import decide
from react_pipeline.retrieval.retrieve import retrieve_pairs
from react_pipeline.stage import STAGES
from react_pipeline.store.artifacts import Inputs
from react_pipeline.store.errors import (
    ChangedSource,
    InputError,
    MissingArtifact,
    StaleArtifact,
    StoreWriteError,
)

Make = Callable[..., Project]
NO_WAIT = (0,) * len(WAIT_HOURS)
GATED = ("customized_checkpoint", partition_of("shapes/gated-image"))
CLASSES = dg.AssetCheckKey(dg.AssetKey("retrieved_set"), "classes_have_pairs")


@pytest.fixture
def kept_up(make_project: Make) -> Project:
    return make_project(methods=list(METHODS))


@pytest.fixture
def upkeep(kept_up: Project) -> Iterator[Upkeep]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Upkeep(kept_up, instance, "shapes")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks are tried again without a pause."""
    monkeypatch.setattr(declared, "RETRIES", dg.RetryPolicy(max_retries=1))


def begin(upkeep: Upkeep, error: Exception | None) -> None:
    """Ask for what is due: the run of `corpus` ends, with this error if any, the others go on."""
    upkeep.tick()
    upkeep.plan(dg.DagsterRunStatus.STARTED)
    upkeep.run("corpus", None, error)


def test_a_passing_fault_is_retried_when_its_time_has_come(
    upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(upkeep, StoreWriteError("disk full"))
    assert upkeep.tick() == set()
    assert "failed: " in upkeep.log and "disk full; retried after 20" in upkeep.log
    assert "UTC, try 2 of 6" in upkeep.log
    monkeypatch.setattr(upkeep_sensor, "WAIT_HOURS", NO_WAIT)
    assert ("corpus", None) in upkeep.tick()


@pytest.mark.parametrize("error", [StaleArtifact, MissingArtifact, ChangedSource])
def test_an_input_that_changed_for_a_moment_costs_minutes(
    upkeep: Upkeep, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put back, it is what it was, so no other inputs would ever ask for it again."""
    begin(upkeep, error("images/0.png: changed since its set was published"))
    assert upkeep.tick() == set() and "try 2 of 6" in upkeep.log
    later = time.time() + 65
    monkeypatch.setattr(
        upkeep_sensor, "time", SimpleNamespace(time=lambda: later, monotonic=time.monotonic)
    )
    assert upkeep.tick() == {("corpus", None)}


def test_tries_are_bounded_and_the_last_line_says_what_to_do(
    upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_sensor, "WAIT_HOURS", NO_WAIT)
    asked = 0
    while ("corpus", None) in upkeep.tick():
        upkeep.run("corpus", None, OSError("no route to host"))
        asked += 1
        assert asked < 20
    assert asked == len(WAIT_HOURS) + 1
    assert "tried 6 times. Fix the cause, then materialize it by hand" in upkeep.log


def test_a_lasting_fault_is_not_retried_and_is_reported(
    upkeep: Upkeep,
) -> None:
    begin(upkeep, InputError("no shard in data/*.tar"))
    assert upkeep.tick() == set()
    assert (
        "failed: no shard in data/*.tar. It will keep failing until something changes" in upkeep.log
    )


def test_other_code_is_tried_once_on_what_failed(
    upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(upkeep, InputError("a bug"))
    assert upkeep.tick() == set()
    monkeypatch.setattr(upkeep_sensor, "code_digest", lambda: "fixed")
    assert upkeep.tick() == {("corpus", None)}
    assert (
        "corpus all: asked for again, since its run " in upkeep.log
        and " had other code" in upkeep.log
    )
    upkeep.run("corpus", None, InputError("another bug"))
    assert upkeep.tick() == set()


def test_code_is_that_of_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.py").write_text("one = 1")
    monkeypatch.setattr(upkeep_sensor.assets, "__path__", [str(tmp_path)])
    before = code_digest()
    (tmp_path / "one.py").write_text("one = 2")
    assert code_digest() != before


def test_what_a_person_made_by_hand_is_taken_and_continues(
    kept_up: Project, upkeep: Upkeep
) -> None:
    begin(upkeep, InputError("a bug"))
    build(kept_up, "corpus")
    build(kept_up, "base_checkpoint")
    assert ("corpus_embeddings", None) in upkeep.tick()
    assert "corpus all" not in upkeep.log


def test_a_cancelled_run_is_respected_and_a_deleted_forgotten(
    upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_sensor, "WAIT_HOURS", NO_WAIT)
    upkeep.tick()
    upkeep.plan(dg.DagsterRunStatus.CANCELED)
    assert upkeep.tick() == set() and "was cancelled; materialize it to run it again" in upkeep.log
    for run in upkeep.instance.get_runs():
        upkeep.instance.delete_run(run.run_id)
    assert len(upkeep.tick()) == 3


def test_try_by_hand_that_fails_too_changes_nothing(upkeep: Upkeep) -> None:
    begin(upkeep, InputError("a bug"))
    upkeep.run("corpus", None, InputError("a bug"), by_hand=True)
    assert upkeep.tick() == set() and "failed: a bug" in upkeep.log


def test_work_in_progress_is_not_called_up_to_date(kept_up: Project, upkeep: Upkeep) -> None:
    upkeep.tick()
    upkeep.plan(dg.DagsterRunStatus.STARTED)
    assert upkeep.tick() == set()
    assert upkeep.reported.endswith(" not up to date yet: runs are queued or in progress")
    assert int(upkeep.reported.split()[0])
    build_all(kept_up, ["shapes"])
    edit_domain(kept_up, "shapes", title="another")
    assert upkeep.tick() == {("overview", None), ("promotion", "shapes")}


def test_a_tick_leaves_the_rest_to_the_next(
    kept_up: Project, upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_sensor, "MAX_REQUESTS", 2)
    others = [f"shapes-{number}" for number in range(4)]
    for slug in others:
        shutil.copy(kept_up.config.domains / "shapes.yaml", kept_up.config.domains / f"{slug}.yaml")
    upkeep.instance.add_dynamic_partitions(DOMAINS, others)
    first = {("corpus", None), ("base_checkpoint", None)}
    assert upkeep.tick() == first
    del upkeep.tags["corpus", None]  # as if it could not be queued
    upkeep.plan(dg.DagsterRunStatus.STARTED)
    asked: list[tuple[str, str | None]] = []
    while some := upkeep.tick():
        asked += some
        upkeep.plan(dg.DagsterRunStatus.STARTED)
        assert len(some) <= 2
    assert ("corpus", None) in asked[:2]
    assert len(asked) == len(set(asked)) == 2 + len(others)


def test_a_late_tick_asks_for_something(upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep_sensor, "MAX_REQUESTS", 1)
    monkeypatch.setattr(upkeep_sensor, "JUDGE_SECONDS", -1.0)
    assert len(upkeep.tick()) == 1


def test_late_ticks_judge_what_failed_in_turn(
    upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    upkeep.tick()
    for place in (("corpus", None), ("base_checkpoint", None)):
        upkeep.run(*place, InputError("broken"))
    monkeypatch.setattr(upkeep_sensor, "MAX_REQUESTS", 1)
    monkeypatch.setattr(upkeep_sensor, "JUDGE_SECONDS", -1.0)
    lines = []
    for _ in range(2):
        upkeep.tick()
        lines += [line for line in upkeep.log.splitlines() if "failed: broken" in line]
    assert sorted(line.split()[0] for line in lines) == ["base_checkpoint", "corpus"]


def test_endings_are_forgotten_one_by_one(upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_runs, "MAX_ENDINGS", 2)
    monkeypatch.setattr(last_runs, "_endings", {("1", "a"): 1, ("2", "b"): 2})
    begin(upkeep, InputError("broken"))
    upkeep.tick()
    assert len(last_runs._endings) == 2 and ("2", "b") in last_runs._endings


def test_queries_are_as_many_for_many_domains(kept_up: Project, upkeep: Upkeep) -> None:
    def queries() -> int:
        lines: list[str] = []
        listener = "before_cursor_execute"

        def count(_connection: object, _cursor: object, line: str, *_: object) -> None:
            lines.append(line)

        event.listen(Engine, listener, count)
        try:
            assert GATED in upkeep.tick()
        finally:
            event.remove(Engine, listener, count)
        return len(lines)

    build_all(kept_up, ["shapes"], until="retrieved_set")
    one = queries()
    others = [f"shapes-{number}" for number in range(9)]
    for slug in others:
        shutil.copy(kept_up.config.domains / "shapes.yaml", kept_up.config.domains / f"{slug}.yaml")
    upkeep.instance.add_dynamic_partitions(DOMAINS, others)
    build_all(kept_up, others, until="retrieved_set")
    assert queries() == one and len(upkeep.requests) == 10


@pytest.mark.parametrize(
    ("stage", "readers"), [("comparison", (comparison, made_up)), ("promotion", (case,))]
)
def test_each_change_of_evidence_is_asked_for_at_once(
    stage: str,
    readers: tuple[ModuleType, ...],
    kept_up: Project,
    upkeep: Upkeep,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = 0

    def evidence_of(_project: Project, slug: str) -> Mapping[str, Any]:
        inputs = Inputs("votes", slug, {}, {}, "1", count)
        votes = SimpleNamespace(inputs=inputs, decides=False, objection=lambda *_: "")
        votes.publish = lambda project: project.store.build(inputs, lambda *_: {})
        return {"votes": votes}

    for module in readers:
        monkeypatch.setattr(module, "evidence_of", evidence_of)
    build_all(kept_up, ["shapes"])
    for count in range(4):  # noqa: B007 - `evidence_of` reads it
        if (stage, "shapes") in upkeep.tags:
            assert (stage, "shapes") in upkeep.tick()
            assert upkeep.tags[stage, "shapes"][TRY_TAG] == "1"
            upkeep.run(stage, "shapes")
        build(kept_up, "comparison", "shapes")
        decide(kept_up, "shapes")
        upkeep.tags[stage, "shapes"] = {}


def test_runs_are_read_before_files(upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch) -> None:
    upkeep.tick()
    upkeep.run("evaluation_set", "shapes")
    runs = [run.run_id for run in upkeep.instance.get_runs()]
    line = "evaluation_set shapes: was asked for with"
    assert ("evaluation_set", "shapes") not in upkeep.tick() and line in upkeep.log
    monkeypatch.setattr(upkeep.instance, "get_run_ids", lambda *_: runs)
    assert ("evaluation_set", "shapes") not in upkeep.tick()
    assert line not in upkeep.log, "a run that has ended since may have built it"


def test_a_partition_whose_run_goes_on_is_awaited(upkeep: Upkeep) -> None:
    begin(upkeep, None)
    place = ("evaluation_set", "shapes")
    assert not LastRuns(upkeep.instance, ProjectResource()).is_awaited(place)

    @dg.asset(name=place[0], partitions_def=domain_partitions(ProjectResource()))
    def made() -> None: ...

    job = dg.Definitions(assets=[made]).resolve_implicit_global_asset_job_def()
    tags = {"dagster/partition": place[1]}
    upkeep.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=tags)
    assert LastRuns(upkeep.instance, ProjectResource()).is_awaited(place)
    assert not LastRuns(upkeep.instance, ProjectResource()).is_awaited((place[0], "colours"))


def test_a_failure_with_a_clock_years_ahead_is_retried(
    upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(upkeep, StoreWriteError("disk full"))
    assert upkeep.tick() == set()
    years_ago = time.time() - 10 * 365 * 24 * 3600
    clocks = SimpleNamespace(time=lambda: years_ago, monotonic=time.monotonic)
    monkeypatch.setattr(upkeep_sensor, "time", clocks)
    assert upkeep.tick() == {("corpus", None)}


def lapse(instance: dg.DagsterInstance, slug: str = "shapes") -> None:
    """The check `classes_have_pairs` of a domain is planned, and raises instead of being
    evaluated.
    """

    @dg.asset(name="retrieved_set", partitions_def=domain_partitions(ProjectResource()))
    def made() -> None:
        pass

    @dg.asset_check(asset=made, blocking=True, partitions_def=domain_partitions(ProjectResource()))
    @readable_failures()
    def classes_have_pairs() -> dg.AssetCheckResult:
        raise OSError("stale file handle")

    instance.add_dynamic_partitions(DOMAINS, [slug])
    done = dg.materialize(
        [made, classes_have_pairs], instance=instance, partition_key=slug, raise_on_error=False
    )
    assert not done.success and not done.get_asset_check_evaluations()


def test_an_unanswered_check_is_asked_for_again_and_awaited(
    kept_up: Project, upkeep: Upkeep, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_all(kept_up, ["shapes"], until="retrieved_set")
    lapse(upkeep.instance)
    assert upkeep.tick() == {("retrieved_set", "shapes")}
    assert (
        "retrieved_set shapes: asked for: classes_have_pairs of retrieved_set was not evaluated: run "
        in upkeep.log
    )
    assert "stale file handle" in upkeep.log
    (request,) = upkeep.requests
    job = upkeep.repository.get_job(request.job_name).get_subset(
        asset_selection=set(request.asset_selection)
    )
    made = kept_up.store.current("retrieved_set", "shapes").fingerprint
    # The artifact was made up and has no figures, so the check fails again.
    job.execute_in_process(
        instance=upkeep.instance, partition_key="shapes", tags=request.tags, raise_on_error=False
    )
    assert kept_up.store.current("retrieved_set", "shapes").fingerprint == made
    after_base = {("comparison", "shapes"), ("promotion", "shapes")}
    assert upkeep.tick() == after_base, "what needs no checkpoint goes on"
    assert "retrieved_set shapes: was asked for" in upkeep.log and "; retried after" in upkeep.log
    with monkeypatch.context() as patch:
        patch.setattr(upkeep_sensor, "WAIT_HOURS", NO_WAIT)
        assert ("retrieved_set", "shapes") in upkeep.tick(), "whatever the error of the check"
    for check in declared.blocking_checks("retrieved_set", ProjectResource()):
        answer = dg.AssetCheckEvaluation(
            check.asset_key, check.name, passed=True, blocking=True, partition="shapes"
        )
        upkeep.instance.report_runless_asset_event(answer)
    assert GATED in upkeep.tick()


def test_check_is_waited_for_while_its_run_is_active(
    kept_up: Project, upkeep: Upkeep, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_all(kept_up, ["shapes"], until="retrieved_set")
    lapse(upkeep.instance)
    runs = [run.run_id for run in upkeep.instance.get_runs()]
    monkeypatch.setattr(upkeep.instance, "get_run_ids", lambda *_: runs)
    assert upkeep.tick() == set() and not upkeep.requests
    assert upkeep.reported.endswith("not up to date yet: runs are queued or in progress")


def test_a_check_that_answers_meanwhile_is_not_repeated(
    kept_up: Project, upkeep: Upkeep, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_all(kept_up, ["shapes"], until="retrieved_set")
    lapse(upkeep.instance)
    runs = [run.run_id for run in upkeep.instance.get_runs()]

    def answered(_filters: dg.RunsFilter) -> list[str]:
        answer = dg.AssetCheckEvaluation(
            CLASSES.asset_key, CLASSES.name, passed=True, blocking=True, partition="shapes"
        )
        upkeep.instance.report_runless_asset_event(answer)
        return runs  # it has ended when the checks are read

    monkeypatch.setattr(upkeep.instance, "get_run_ids", answered)
    assert GATED in upkeep.tick() and ("retrieved_set", "shapes") not in upkeep.tags
    assert "was not evaluated" not in upkeep.log


def test_passing_faults_of_a_check_are_retried(
    hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(declared, "_checks", {})

    @dg.asset
    def corpus() -> None:
        pass

    @declared.check("corpus")
    def flaky(_context: object, _project: object) -> dg.AssetCheckResult:
        """Says why."""
        calls.append(1)
        if len(calls) == 1:
            raise OSError("stale file handle")
        return dg.AssetCheckResult(passed=True)

    @declared.check("corpus", blocking=True)
    def broken(_context: object, _project: object) -> dg.AssetCheckResult:
        raise KeyError("rows")

    checks = declared.checks_of([STAGES["corpus"]], {}, ProjectResource())
    done = dg.materialize([corpus, *checks], raise_on_error=False)
    assert len(calls) == 2 and [
        found.check_name for found in done.get_asset_check_evaluations()
    ] == ["flaky"]
    (event,) = [event for event in done.all_events if event.is_step_failure]
    assert event.step_failure_data.user_failure_data.description == "KeyError: 'rows'"
    assert next(iter(checks[0].check_specs)).description == "Says why."
    assert [key.name for key in declared.blocking_checks("corpus", ProjectResource())] == ["broken"]


@pytest.mark.slow
def test_daemon_evaluates_check_that_never_answered_and_trains(
    make_project: Make, _indexed_store: Path, tmp_path: Path, hasty: None
) -> None:
    project = make_project(
        methods=["linear-head"], automation={"enabled": True, "interval_seconds": 2}
    )
    shutil.copytree(_indexed_store, project.config.store)
    (project.config.domains / "colours.yaml").unlink()
    publish_evaluation_set(project, "shapes")
    retrieve_pairs(project, "shapes")
    with dagster_home(tmp_path / "home") as home:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            lapse(instance)
        with running_daemon(project, home) as log:
            trained = ("customized_checkpoint", "shapes/linear-head")
            wait_for(
                lambda: trained[1] in project.store.keys(trained[0]), 300, "trained checkpoint", log
            )
        with dg.DagsterInstance.from_config(str(home)) as instance:
            runs = instance.get_runs()
    again = [run for run in runs if INPUTS_TAG + "retrieved_set" in run.tags]
    assert [run.status for run in again] == [dg.DagsterRunStatus.SUCCESS]
