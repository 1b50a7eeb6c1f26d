"""What is asked for, in which order, and what the policy of training holds back."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.upkeep import METHODS, build, build_all, change_pipeline, edit_domain

from react_pipeline.evaluation import comparison
from react_pipeline.extensions.automation.survey import State, places, survey
from react_pipeline.lineage import fresh, resolve
from react_pipeline.project.project import Project
from react_pipeline.store.errors import ConfigError
from react_pipeline.store.store import Store

Make = Callable[..., Project]


@pytest.fixture
def project(make_project: Make) -> Project:
    return make_project(methods=list(METHODS))


@pytest.fixture
def trained(project: Project) -> Project:
    """Everything up to the comparison of `shapes` is fresh; it was trained on the images a
    and b.
    """
    build_all(project, ["shapes"])
    return project


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"training": "always"}, State.DUE),
        ({"training": "never"}, State.HELD),
        ({"training": "changed", "changed_fraction": 0.3}, State.DUE),
        ({"training": "changed", "changed_fraction": 0.4}, State.HELD),
    ],
)
def test_policy_decides_whether_other_pairs_are_trained_on(
    trained: Project, policy: dict[str, Any], expected: State
) -> None:
    edit_domain(trained, "shapes", retrieval={"max_per_class": 5})
    build(trained, "retrieved_set", "shapes", images=("a", "b", "c"))  # 1 of 3 is new
    found = survey(change_pipeline(trained, automation=policy), ["shapes"])
    training = ("customized_checkpoint", "shapes/gated-image")
    assert found.states[training] is expected
    there = found.held if expected is State.HELD else found.tasks
    assert [task.place for task in there] == [training]
    if policy.get("changed_fraction") == 0.4:
        reason = "33.3% of its pairs changed; `automation.changed_fraction` is 40.0%"
        assert found.held[0].reason == reason
    waits = State.HELD if expected is State.HELD else State.WAITING
    assert found.states["comparison", "shapes"] is waits


def test_an_untrained_method_delays_no_comparison(
    trained: Project,
) -> None:
    methods = [*METHODS, "gated-image-control"]
    changed = change_pipeline(trained, automation={"training": "never"}, methods=methods)
    assert not survey(changed, ["shapes"]).held  # its control set comes first
    build(trained, "control_set", "shapes")
    found = survey(Project.load(trained.path), ["shapes"])
    assert [task.key for task in found.held] == ["shapes/gated-image-control"]
    assert found.states["comparison", "shapes"] is State.FRESH


@pytest.mark.parametrize("damage", ["cut", "gone", "changed"])
def test_a_damaged_file_of_one_domain_is_built_again(project: Project, damage: str) -> None:
    build_all(project, ["shapes", "colours"], until="retrieved_set")
    damaged = project.store.current("retrieved_set", "shapes").file("pairs.parquet")
    whole = damaged.read_bytes()
    damaged.unlink()
    if damage != "gone":
        damaged.write_bytes(whole[:9] if damage == "cut" else bytes(len(whole)))
    edit_domain(project, "colours", templates=["another {}"])
    found = survey(project, ["shapes", "colours"])
    # What keeps its length is seen by the step that reads it: a look hashes nothing.
    seen = [("retrieved_set", "shapes")] if damage != "changed" else []
    assert [task.place for task in found.tasks if task.stage == "retrieved_set"] == [
        *seen,
        ("retrieved_set", "colours"),
    ]
    if seen:
        build(project, "retrieved_set", "shapes")
        assert survey(project, ["shapes"]).states["retrieved_set", "shapes"] is State.FRESH


def test_an_unreadable_table_is_reported_and_harms_no_other(trained: Project) -> None:
    edit_domain(trained, "shapes", retrieval={"max_per_class": 5})
    build(trained, "retrieved_set", "shapes", images=("a", "b", "c"))
    table = trained.store.current("retrieved_set", "shapes").file("pairs.parquet")
    table.write_bytes(bytes(table.stat().st_size))
    found = survey(trained, ["shapes", "colours"])
    assert "customized_checkpoint: " in found.unreadable["shapes"]
    assert found.states["customized_checkpoint", "shapes/gated-image"] is State.FAILED
    assert ("evaluation_set", "colours") in [task.place for task in found.tasks]


def test_cost_of_a_look_grows_with_the_domains_and_not_faster(
    make_project: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, seen = make_project(methods=list(METHODS)), Counter[Any]()
    build_all(project, ["shapes", "colours"])
    parents = {slug: fresh(project, "comparison", slug) for slug in ("shapes", "colours")}
    overview = resolve(project, "overview", parents=parents, content={"skipped": {}})
    project.store.build(overview, lambda *_: {})

    def count(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def counted(first: Any, *given: Any) -> Any:
            seen[name, str(given)] += 1
            return real(first, *given)

        monkeypatch.setattr(owner, name, counted)

    # No folder of a stage is listed for each domain, what is current is read once, and overview
    # judges no comparison again.
    for owner, name in ((Store, "keys"), (Store, "pointer"), (comparison, "gather")):
        count(owner, name)
    for slugs in (["shapes"], ["shapes", "colours"]):
        seen.clear()
        survey(project, slugs)
        assert set(seen.values()) == {1}, seen
        assert {"pointer", "gather"} <= {name for name, _ in seen}


def test_a_corpus_that_cannot_be_read_keeps_no_domain_from_that_of_before(
    make_project: Make, drawings: Path, tmp_path: Path
) -> None:
    shards = Path(shutil.copytree(drawings / "shards", tmp_path / "own"))
    project = make_project(corpus={"shards": [str(shards / "*.tar")]}, methods=list(METHODS))
    build_all(project, ["shapes"], until="faiss_index")
    shutil.copy(next(shards.glob("*.tar")), shards / "new.tar")
    found = survey(
        project, ["shapes"], lambda task, _: "killed" if task.stage == "corpus" else None
    )
    assert [task.place for task in found.tasks] == [("retrieved_set", "shapes")]


def test_control_and_benchmark_are_kept_up_only_if_requested(
    make_project: Make, tmp_path: Path
) -> None:
    def kept(**sections: Any) -> set[str]:
        return {stage for stage, _ in places(make_project(**sections), ["shapes"])}

    assert not kept(methods=["base"]) & {"control_set", "customized_checkpoint"}
    wanted: dict[str, Any] = {
        "methods": ["base", "gated-image-control"],
        "automation": {"extensions": ["elevater", "dense"]},
    }
    without_data = kept(**wanted, dense={"root": str(tmp_path / "none")})
    assert "control_set" in without_data
    assert not without_data & {"benchmark_results", "dense_results"}
    root = {"root": str(tmp_path)}
    assert {"benchmark_comparison", "dense_comparison"} <= kept(**wanted, elevater=root, dense=root)


def test_pairs_that_were_pruned_count_as_all_changed(trained: Project) -> None:
    edit_domain(trained, "shapes", retrieval={"max_per_class": 5})
    before = trained.store.current("retrieved_set", "shapes")
    build(trained, "retrieved_set", "shapes")
    shutil.rmtree(before.path.parent)
    found = survey(trained, ["shapes"])
    assert found.states["customized_checkpoint", "shapes/gated-image"] is State.DUE


@pytest.mark.parametrize(
    ("given", "reported"),
    [
        ({"schedule": "60 3 * * *"}, "automation.schedule: '60 3 * * *' is not a cron line"),
        ({"schedule": "@daily"}, "is not a cron line"),
        ({"schedule": "0 3 30 2 *"}, "is not a cron line"),
        ({"timezone": "Mars/Olympus"}, "automation.timezone: invalid timezone: Mars/Olympus"),
        ({"changed_fraction": 2}, "automation.changed_fraction"),
        ({"extensions": ["dence"]}, "did you mean dense"),
    ],
)
def test_wrong_automation_is_one_error_with_file_and_field(
    make_project: Make, given: dict[str, Any], reported: str
) -> None:
    with pytest.raises(ConfigError) as error:
        make_project(automation=given)
    assert reported in str(error.value)
    assert len(error.value.problems) == 1
