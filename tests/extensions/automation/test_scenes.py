"""What is due: the contract of the sensor `upkeep`, scene by scene.

The assets, their checks and their runs are real; what a step builds is made up, so a scene takes
seconds.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from support.scenes import Scene
from support.upkeep import METHODS, build_all, change_pipeline, edit_domain

from react_pipeline.assets import TRY_TAG
from react_pipeline.project import Project
from react_pipeline.store import ChangedSource, StoreWriteError, TrainingError

CHECKPOINT = "customized_checkpoint shapes/gated-image"
RESULTS = "domain_results shapes/gated-image"
STEPS = {"steps": 9, "batch_size": 8, "warmup_steps": 1}
FULL = StoreWriteError("the disk is full")


@pytest.fixture
def scene(
    make_project: Callable[..., Project],
    drawings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Scene]:
    """A project of one domain, of which nothing is built."""
    shards = shutil.copytree(drawings / "shards", tmp_path / "own")
    project = make_project(
        methods=list(METHODS),
        corpus={"shards": [str(shards / "*.tar")]},
        automation={"changed_fraction": 0.1},
    )
    (project.config.domains / "colours.yaml").unlink()
    with Scene.of(project, monkeypatch) as scene:
        yield scene


@pytest.fixture
def settled(scene: Scene) -> Scene:
    """Everything is built, and nobody has been asked for it."""
    scene.images = tuple("abcdefghijklmnopqrst")
    build_all(scene.project, ["shapes"], images=scene.images)
    assert scene.play() == []
    return scene


def test_a_new_project_is_built_link_by_link(scene: Scene) -> None:
    made = scene.play()
    assert [place.split()[0] for place in made] == [
        *("base_checkpoint", "corpus", "evaluation_set"),
        *("corpus_embeddings", "domain_results", "faiss_index", "retrieved_set"),
        *("customized_checkpoint", "domain_results", "comparison"),
    ]
    assert scene.play() == []


def test_a_new_domain_file_costs_no_work_of_the_corpus(settled: Scene) -> None:
    folder = settled.project.config.domains
    shutil.copy(folder / "shapes.yaml", folder / "birds.yaml")
    made = settled.play()
    assert made[-1] == "comparison birds" and len(made) == 6
    assert all("birds" in place for place in made)


def test_other_labelled_images_are_measured_on(settled: Scene, drawings: Path) -> None:
    images = settled.project.path.parent / "labelled"
    shutil.copytree(drawings / "evaluation" / "shapes", images)
    evaluation = {"name": "own", "kind": "folder", "path": str(images)}
    edit_domain(settled.project, "shapes", evaluation=evaluation)
    made = settled.play()
    assert {"evaluation_set shapes", "domain_results shapes/base"} <= {*made}
    next(images.rglob("*.png")).unlink()
    assert "evaluation_set shapes" in settled.play()


def test_other_files_of_the_corpus_are_noticed(settled: Scene) -> None:
    (pattern,) = settled.project.config.corpus.files()
    os.utime(next(Path(pattern).parent.glob("*.tar")), (1, 1))
    assert settled.play() == ["corpus"], "its content is the same"
    shutil.copy(next(Path(pattern).parent.glob("*.tar")), Path(pattern).parent / "new.tar")
    made = settled.play()
    assert made[:3] == ["corpus", "corpus_embeddings", "faiss_index"]
    assert "retrieved_set shapes" in made and CHECKPOINT not in made


def test_what_is_lost_from_the_disk_is_built_again_and_a_title_makes_nothing_due(
    settled: Scene,
) -> None:
    edit_domain(settled.project, "shapes", title="Shapes and more")
    assert settled.play() == []
    shutil.rmtree(settled.project.config.store / "comparison")
    assert settled.play() == ["comparison shapes"]


def test_a_full_disk_is_tried_again_after_growing_waits(scene: Scene) -> None:
    scene.faults["retrieved_set", "shapes"] = FULL
    made = scene.play()
    assert made.count("FAILED retrieved_set shapes") == 1
    assert "domain_results shapes/base" in made, "others go on"
    for hours in (1, 2, 4, 8, 16):
        scene.wait(hours - 0.2)
        assert scene.play() == []
        scene.wait(0.3)
        assert scene.play() == ["FAILED retrieved_set shapes"]
    scene.wait(100)
    assert scene.play() == []
    assert "tried 6 times" in scene.log
    scene.faults.clear()
    edit_domain(scene.project, "shapes", templates=["a sketch of a {}"])
    assert "retrieved_set shapes" in scene.play(), "another file is tried at once"


def test_a_training_that_diverges_is_never_repeated(scene: Scene) -> None:
    place = ("customized_checkpoint", "shapes/gated-image")
    scene.faults[place] = TrainingError("the loss is not finite")
    made = scene.play()
    assert made.count(f"FAILED {CHECKPOINT}") == 1
    assert "comparison shapes" in made, "of the base alone"
    scene.wait(24)
    assert scene.play() == []
    assert "the loss is not finite" in scene.log
    scene.faults.clear()
    change_pipeline(scene.project, customization={"defaults": STEPS})
    assert {CHECKPOINT, RESULTS} <= {*scene.play()}


def test_an_input_that_changed_for_a_moment_costs_minutes(scene: Scene) -> None:
    scene.faults["retrieved_set", "shapes"] = ChangedSource("0.tar: changed meanwhile")
    scene.play()
    scene.faults.clear()
    assert scene.play() == []
    scene.wait(0.1)
    assert "retrieved_set shapes" in scene.play()


def test_a_blocking_check_stops_the_chain_until_it_passes(scene: Scene) -> None:
    scene.images = ()
    made = scene.play()
    assert "FAILED retrieved_set shapes" in made and CHECKPOINT not in made
    scene.wait(24)
    assert scene.play() == []
    assert "classes_have_pairs of retrieved_set has failed" in scene.log
    edit_domain(scene.project, "shapes", retrieval={"max_starving_fraction": 1})
    assert CHECKPOINT not in scene.play()
    scene.run_by_hand("retrieved_set", "shapes")
    assert CHECKPOINT in scene.play()


def test_a_check_that_was_never_evaluated_is_asked_for(scene: Scene) -> None:
    scene.check_fault = OSError("stale file handle")
    made = scene.play()
    assert made.count("FAILED retrieved_set shapes") == 2 and CHECKPOINT not in made
    scene.check_fault = None
    scene.wait(1.1)
    made = scene.play()
    assert "retrieved_set shapes" in made and CHECKPOINT in made


def queue_training(scene: Scene, **tags: str) -> dg.DagsterRun:
    """Lose the checkpoint, and begin the run that is asked for."""
    shutil.rmtree(scene.project.config.store / "customized_checkpoint")
    (asked,) = scene.ask()
    return scene.queue(asked, **tags)


def test_a_killed_run_is_tried_again_after_a_wait(settled: Scene) -> None:
    run = queue_training(settled)
    assert settled.play() == []
    settled.end(run)
    assert CHECKPOINT not in settled.play()
    settled.wait(1.1)
    assert CHECKPOINT in settled.play()


def test_a_killed_run_that_dagster_starts_again_is_awaited(settled: Scene) -> None:
    settled.end(queue_training(settled, **{"dagster/will_retry": "true"}))
    settled.wait(5)
    assert settled.play() == []


def test_a_cancelled_run_is_not_repeated(settled: Scene) -> None:
    settled.cancel(queue_training(settled))
    settled.wait(24)
    assert CHECKPOINT not in settled.play() and "was cancelled" in settled.log
    change_pipeline(settled.project, customization={"defaults": STEPS})
    assert CHECKPOINT in settled.play()


@pytest.mark.parametrize("end", [Scene.end, Scene.cancel])
def test_a_run_before_what_a_person_built_is_forgotten(
    settled: Scene, end: Callable[..., None]
) -> None:
    end(settled, queue_training(settled))
    settled.run_by_hand("customized_checkpoint", "shapes/gated-image")
    shutil.rmtree(settled.project.config.store / "customized_checkpoint")
    assert CHECKPOINT in settled.play()


def test_what_is_due_again_after_it_was_built_is_asked_for_soon(scene: Scene) -> None:
    scene.play()
    for _ in range(2):
        scene.wait(0.1)
        shutil.rmtree(scene.project.config.store / "customized_checkpoint")
        (asked,) = scene.ask()
        assert asked.tags[TRY_TAG] == "1"
        assert CHECKPOINT in scene.play()


def test_a_run_that_ended_with_the_servers_goes_on_at_once(scene: Scene) -> None:
    scene.faults["retrieved_set", "shapes"] = KeyboardInterrupt()
    made = scene.play(most=12)
    assert made.count("FAILED retrieved_set shapes") > 6, "it counts for no try"
    scene.faults.clear()
    assert "retrieved_set shapes" in scene.play()
