"""What became of what was asked for: tried again where a fault may pass, told truthfully where it does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from support_automation import Upkeep, running_daemon, wait_for
from support_launch import dagster_home
from support_upkeep import METHODS, build, build_all, edit_domain

from assets import attempts, conditions, reporting
from assets.attempts import INPUTS_TAG, WAIT_HOURS, Fate, code_digest, wait
from assets.gates import CHECK_TAG
from assets.partitions import DOMAINS, domain_partitions, partition_of
from assets.reporting import check, readable_failures
from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.retrieval.retrieve import retrieve_pairs
from react_pipeline.store.errors import InputError, StoreWriteError

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
    """Steps are tried again without a pause."""
    monkeypatch.setattr(reporting, "RETRIES", dg.RetryPolicy(max_retries=1))


def fail(upkeep: Upkeep, error: Exception) -> None:
    """A run of `corpus`, as it was asked for, that ends with this error."""

    @dg.op(retry_policy=reporting.RETRIES)
    def corpus() -> None:
        with readable_failures():
            raise error

    @dg.job
    def failing() -> None:
        corpus()

    tags = {name: value for name, value in upkeep.tags["corpus", None].items() if name.startswith(INPUTS_TAG)}
    failing.execute_in_process(instance=upkeep.instance, raise_on_error=False, tags=tags)


def plan(upkeep: Upkeep, status: dg.DagsterRunStatus) -> None:
    """A run in this state for everything that was asked for."""

    @dg.job
    def empty() -> None:
        pass

    for tags in upkeep.tags.values():
        mine = {name: value for name, value in tags.items() if name.startswith(INPUTS_TAG)}
        upkeep.instance.create_run_for_job(empty, status=status, tags=mine)


def test_fault_that_may_pass_is_tried_again_when_its_time_has_come(
    upkeep: Upkeep, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    upkeep.tick()
    fail(upkeep, StoreWriteError("disk full"))
    assert upkeep.tick() == set()
    assert "failed: " in upkeep.log and "disk full; asked for again after 20" in upkeep.log
    assert "UTC, try 2 of 6" in upkeep.log
    monkeypatch.setattr(attempts, "WAIT_HOURS", NO_WAIT)
    assert ("corpus", None) in upkeep.tick()


def test_tries_are_bounded_and_the_last_line_says_what_to_do(
    upkeep: Upkeep, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "WAIT_HOURS", NO_WAIT)
    asked = 0
    while ("corpus", None) in upkeep.tick():
        fail(upkeep, OSError("no route to host"))
        asked += 1
        assert asked < 20
    assert asked == len(WAIT_HOURS) + 1
    assert "tried 6 times. Mend the cause, then materialize it by hand" in upkeep.log


def test_fault_that_stays_is_not_tried_again_and_is_told_with_its_reason(upkeep: Upkeep, hasty: None) -> None:
    upkeep.tick()
    fail(upkeep, InputError("no shard in data/*.tar"))
    assert upkeep.tick() == set()
    assert "failed: no shard in data/*.tar. It fails so again until something changes" in upkeep.log


def test_other_code_is_tried_once_on_what_failed(upkeep: Upkeep, hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    upkeep.tick()
    fail(upkeep, InputError("a bug"))
    assert upkeep.tick() == set()
    monkeypatch.setattr(conditions, "code_digest", lambda: "mended")
    assert upkeep.tick() == {("corpus", None), ("base_checkpoint", None)}, "they had a run in common"
    assert "corpus all: asked for again, since run " in upkeep.log and " had other code" in upkeep.log
    fail(upkeep, InputError("another bug"))
    assert upkeep.tick() == set()


def test_code_is_that_of_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.py").write_text("one = 1")
    monkeypatch.setattr(attempts.assets, "__path__", [str(tmp_path)])
    before = code_digest()
    (tmp_path / "one.py").write_text("one = 2")
    assert code_digest() != before


def test_what_a_person_made_by_hand_is_taken_and_goes_on(kept_up: Project, upkeep: Upkeep, hasty: None) -> None:
    upkeep.tick()
    fail(upkeep, InputError("a bug"))
    build(kept_up, "corpus")
    build(kept_up, "base_checkpoint")
    assert ("corpus_embeddings", None) in upkeep.tick()
    assert "corpus all" not in upkeep.log


def test_run_that_a_person_deleted_or_cancelled_is_told_as_such(
    upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    upkeep.tick()
    assert upkeep.tick() == set() and "corpus all: was asked for with these inputs" in upkeep.log
    assert "its run is gone; asked for again after" in upkeep.log
    plan(upkeep, dg.DagsterRunStatus.CANCELED)
    monkeypatch.setattr(attempts, "WAIT_HOURS", NO_WAIT)
    assert upkeep.tick() == set() and "was cancelled. Materialize it when you want it after all" in upkeep.log
    for run in upkeep.instance.get_runs():
        upkeep.instance.delete_run(run.run_id)
    assert len(upkeep.tick()) == 3


def test_cursor_of_an_older_version_is_read(upkeep: Upkeep) -> None:
    upkeep.tick()
    evaluations = json.loads(json.dumps(upkeep.cursor))
    assert evaluations  # of Dagster, with the conditions' own inside
    assert attempts.Asked.read("digest") == attempts.Asked("digest")
    assert wait(1, 0.0, 1e9, "its run is gone").fate is Fate.AGAIN


def test_work_in_progress_is_not_called_up_to_date(kept_up: Project, upkeep: Upkeep) -> None:
    upkeep.tick()
    plan(upkeep, dg.DagsterRunStatus.STARTED)
    assert upkeep.tick() == set()
    assert upkeep.told.endswith(" not up to date yet: runs are queued or in progress") and int(upkeep.told.split()[0])
    build_all(kept_up, ["shapes"])
    edit_domain(kept_up, "shapes", title="another")
    assert upkeep.tick() == {("overview", None), ("promotion", "shapes")}


def lapse(instance: dg.DagsterInstance, slug: str = "shapes") -> None:
    """The check `classes_have_pairs` of a domain is planned, and raises instead of being evaluated."""

    @dg.asset(name="retrieved_set", partitions_def=domain_partitions)
    def made() -> None:
        pass

    @check(made, blocking=True, partitions_def=domain_partitions)
    def classes_have_pairs() -> dg.AssetCheckResult:
        raise OSError("stale file handle")

    instance.add_dynamic_partitions(DOMAINS, [slug])
    done = dg.materialize([made, classes_have_pairs], instance=instance, partition_key=slug, raise_on_error=False)
    assert not done.success and not done.get_asset_check_evaluations()


def test_check_that_never_answered_is_evaluated_again_and_then_waited_for(
    kept_up: Project, upkeep: Upkeep, hasty: None
) -> None:
    build_all(kept_up, ["shapes"], until="retrieved_set")
    lapse(upkeep.instance)
    assert upkeep.tick() == set()
    told = "gated-image: not asked for yet: classes_have_pairs of retrieved_set was not evaluated: run "
    assert told in upkeep.log and "stale file handle; evaluated now" in upkeep.log
    (request,) = upkeep.requests
    assert request.asset_check_keys == [CLASSES] and request.asset_selection == []
    job = upkeep.repository.get_job(request.job_name).get_subset(
        asset_selection=set(), asset_check_selection=set(request.asset_check_keys)
    )
    # The artifact was made up and has no figures, so the check fails again, this time by itself.
    job.execute_in_process(instance=upkeep.instance, tags=request.tags, raise_on_error=False)
    assert upkeep.tick() == {("comparison", "shapes")}, "what needs no checkpoint goes on"
    assert "failed: KeyError: 'starving'; asked for again after" in upkeep.log
    assert "or execute it on the page Checks of its asset" in upkeep.log
    answer = dg.AssetCheckEvaluation(CLASSES.asset_key, CLASSES.name, passed=True, blocking=True, partition="shapes")
    upkeep.instance.report_runless_asset_event(answer)
    assert GATED in upkeep.tick()


def test_check_is_waited_for_while_its_run_goes_on(
    kept_up: Project, upkeep: Upkeep, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_all(kept_up, ["shapes"], until="retrieved_set")
    lapse(upkeep.instance)
    monkeypatch.setattr("assets.gates.is_under_way", lambda run: True)
    assert upkeep.tick() == set() and not upkeep.requests
    assert upkeep.told.endswith("not up to date yet: runs are queued or in progress")


def test_check_that_answers_while_it_is_looked_at_is_not_evaluated_again(
    kept_up: Project, upkeep: Upkeep, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_all(kept_up, ["shapes"], until="retrieved_set")
    lapse(upkeep.instance)
    whole = upkeep.instance.get_run_by_id

    def answered(run_id: str) -> dg.DagsterRun | None:
        answer = dg.AssetCheckEvaluation(
            CLASSES.asset_key, CLASSES.name, passed=True, blocking=True, partition="shapes"
        )
        upkeep.instance.report_runless_asset_event(answer)
        return whole(run_id)  # ended by now

    monkeypatch.setattr(upkeep.instance, "get_run_by_id", answered)
    assert GATED in upkeep.tick() and all(request.asset_selection for request in upkeep.requests)
    assert "was not evaluated" not in upkeep.log


def test_faults_of_a_check_that_may_pass_are_tried_again_and_others_are_readable(hasty: None) -> None:
    calls = []

    @dg.asset
    def made() -> None:
        pass

    @check(made)
    def flaky() -> dg.AssetCheckResult:
        """Says why."""
        calls.append(1)
        if len(calls) == 1:
            raise OSError("stale file handle")
        return dg.AssetCheckResult(passed=True)

    @check(made)
    def broken() -> dg.AssetCheckResult:
        raise KeyError("rows")

    done = dg.materialize([made, flaky, broken], raise_on_error=False)
    assert len(calls) == 2 and [found.check_name for found in done.get_asset_check_evaluations()] == ["flaky"]
    (event,) = [event for event in done.all_events if event.is_step_failure]
    assert event.step_failure_data.user_failure_data.description == "KeyError: 'rows'"
    assert next(iter(flaky.check_specs)).description == "Says why."


@pytest.mark.slow
def test_daemon_evaluates_a_check_that_never_answered_and_trains(
    make_project: Make, _indexed_store: Path, tmp_path: Path, hasty: None
) -> None:
    project = make_project(methods=["linear-head"], automation={"enabled": True, "interval_seconds": 2})
    shutil.copytree(_indexed_store, project.config.store)
    (project.config.domains / "colours.yaml").unlink()
    publish_evaluation_set(project, "shapes")
    retrieve_pairs(project, "shapes")
    with dagster_home(tmp_path / "home") as home:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            lapse(instance)
        with running_daemon(project, home) as log:
            trained = ("customized_checkpoint", "shapes/linear-head")
            wait_for(lambda: trained[1] in project.store.keys(trained[0]), 300, "trained checkpoint", log)
        with dg.DagsterInstance.from_config(str(home)) as instance:
            runs = instance.get_runs()
    again = [run for run in runs if CHECK_TAG + CLASSES.name in run.tags]
    assert [run.status for run in again] == [dg.DagsterRunStatus.SUCCESS] and not again[0].asset_selection
