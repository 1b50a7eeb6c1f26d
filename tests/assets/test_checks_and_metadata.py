from __future__ import annotations

import errno
import shutil
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from react_pipeline.assets.checks import warning_below
from react_pipeline.assets.corpus import count_bad_vectors, recall_is_sufficient
from react_pipeline.assets.domains import leakage
from react_pipeline.assets.metadata import MAX_PICTURE_BYTES, data_uri, describe
from react_pipeline.assets.retries import readable_failures
from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.pages import markdown_table
from react_pipeline.project.project import Project
from react_pipeline.retrieval.retrieve import retrieve_pairs
from react_pipeline.store.artifacts import Inputs
from react_pipeline.store.errors import (
    CorruptArtifact,
    RetrievalError,
    StoreWriteError,
    TrainingError,
)


def test_rows_that_are_not_finite_or_not_unit_are_counted(tmp_path: Path) -> None:
    vectors = np.eye(4, 8, dtype=np.float16)
    vectors[1] = 0
    vectors[2, 3] = np.nan
    np.save(tmp_path / "img_emb_0.npy", vectors)
    assert count_bad_vectors(tmp_path / "img_emb_0.npy") == 2


@pytest.mark.parametrize(
    ("at_10", "at_100", "enough"), [(0.95, 0.6, True), (0.85, 0.9, False), (0.95, 0.4, False)]
)
def test_recall_of_either_depth_that_is_too_low_fails_the_check(
    tiny_project: Project, at_10: float, at_100: float, enough: bool
) -> None:
    recall = {
        "recall_at_10": {"image": at_10, "text": 1.0},
        "recall_at_100": {"image": 1.0, "text": at_100},
    }
    counts = {**recall, "key": "HNSW32", "reason": "configured"}
    inputs = Inputs("faiss_index", "all", {}, {}, "1")
    result = recall_is_sufficient(tiny_project, tiny_project.store.build(inputs, lambda *_: counts))
    assert result.passed is enough
    assert result.metadata["image_at_10"].value == at_10


@pytest.mark.parametrize(("name", "leaked"), [("circle/0.png", 1), ("circle/1.png", 0)])
def test_evaluation_image_among_the_pairs_fails_the_check(
    indexed_project: Project, tmp_path: Path, drawings: Path, name: str, leaked: int
) -> None:
    path = indexed_project.config.domains / "shapes.yaml"
    domain = yaml.safe_load(path.read_text())
    domain["retrieval"] = {"k_per_prompt": 200, "max_per_class": 200}
    domain["evaluation"]["path"] = str(tmp_path / "measured")
    path.write_text(yaml.safe_dump(domain))
    (tmp_path / "measured" / "circle").mkdir(parents=True)
    shutil.copy(
        drawings / "evaluation" / "shapes" / "circle" / "2.png", tmp_path / "measured" / "circle"
    )
    publish_evaluation_set(indexed_project, "shapes")
    retrieve_pairs(indexed_project, "shapes")
    # Comes to be measured on after the pairs were chosen; the corpus holds the first of the two.
    shutil.copy(drawings / "evaluation" / "shapes" / name, tmp_path / "measured" / "circle")
    publish_evaluation_set(indexed_project, "shapes")
    result = leakage(indexed_project, indexed_project.store.current("retrieved_set", "shapes"))
    assert result.passed is (leaked == 0)
    assert result.metadata["leaked"].value == result.metadata["leaked_by_hash"].value == leaked
    assert result.metadata["evaluation_images"].value == 2


def test_loss_of_accuracy_only_warns() -> None:
    result = warning_below(-0.02, "top-1 less the base's", tolerance=1e-9)
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "-2.0 points" in str(result.description)
    remedied = warning_below(-0.02, "top-1", tolerance=1e-9, remedy="look at the pairs")
    assert str(remedied.description).endswith("-2.0 points; look at the pairs")
    assert warning_below(0.0, "", tolerance=1e-9, remedy="look").description == ": +0.0 points"
    assert warning_below(0.0, "", tolerance=1e-9).passed
    assert not warning_below(0.0, "", tolerance=-1e-9).passed


@pytest.mark.parametrize(
    "error",
    [RetrievalError("no pair"), TrainingError("diverged"), CorruptArtifact("bad"), KeyError("x")],
)
def test_what_fails_the_same_way_again_is_not_tried_again(error: Exception) -> None:
    with pytest.raises(dg.Failure) as failure, readable_failures():
        raise error
    assert failure.value.allow_retries is False
    assert str(error) in str(failure.value.description)


def test_what_may_not_be_written_is_named_and_not_tried_again() -> None:
    with pytest.raises(dg.Failure, match="store: Permission denied") as raised, readable_failures():
        raise PermissionError(errno.EACCES, "Permission denied", "store")
    assert not raised.value.allow_retries


@pytest.mark.parametrize("error", [StoreWriteError("disk full"), OSError("network")])
def test_what_may_pass_is_tried_again(error: Exception) -> None:
    with pytest.raises(type(error)), readable_failures():
        raise error


def test_pictures_are_made_small_enough(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1_500, 1_500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert len(data_uri(tmp_path / "noise.png")) < MAX_PICTURE_BYTES + 100


def test_counts_are_typed_and_unavailable_results_say_why(tiny_project: Project) -> None:
    counts = {
        "n": 3,
        "share": 0.5,
        "ok": True,
        "dropped": {"cap": 2},
        "starving": ["a", "b"],
        "unavailable": "no set",
    }
    artifact = tiny_project.store.build(
        Inputs("domain_results", "shapes/base", {}, {}, "1"), lambda *_: counts
    )
    shown = describe(artifact)
    assert (shown["n"], shown["share"], shown["dropped.cap"]) == (3, 0.5, 2)
    assert shown["ok"].value is True
    assert (shown["starving"].value, shown["unavailable"].value) == ("a, b", "no set")
    assert shown["fingerprint"] == artifact.fingerprint


def test_checkpoint_shows_recall_before_and_after(tiny_project: Project) -> None:
    def write(*_: object) -> dict[str, object]:
        before, after = {"r1_image_to_text": 0.25}, {"r1_image_to_text": 0.5}
        return {"images_per_second": 12.5, "held_out_before": before, "held_out_after": after}

    artifact = tiny_project.store.build(
        Inputs("customized_checkpoint", "shapes/gated-image", {}, {}, "1"), write
    )
    shown = describe(artifact)
    assert (
        shown["held_out_before.r1_image_to_text"],
        shown["held_out_after.r1_image_to_text"],
    ) == (0.25, 0.5)
    assert shown["images_per_second"] == 12.5
    assert shown["table"].value.splitlines()[-1] == r"| r1\_image\_to\_text | 0.25 | 0.5 | 0.25 |"


def test_checkpoint_without_held_out_pairs_shows_no_table(tiny_project: Project) -> None:
    def write(*_: object) -> dict[str, object]:
        return {"held_out_before": {}, "held_out_after": {}}

    artifact = tiny_project.store.build(
        Inputs("customized_checkpoint", "shapes/full", {}, {}, "1"), write
    )
    assert "table" not in describe(artifact)


def test_a_result_shows_its_classes_as_bars(tiny_project: Project) -> None:
    names = ["$\\frac{$", "<b>x</b>", *(f"class {number}" for number in range(100))]

    def write(directory: Path, _: object) -> dict[str, float]:
        rows = [(name, 2, 1, 0.5) for name in names]
        table = pd.DataFrame(rows, columns=["class", "images", "correct", "accuracy"])
        table.to_parquet(directory / "per_class.parquet")
        return {"n": 204}

    shown = describe(
        tiny_project.store.build(Inputs("domain_results", "shapes/base", {}, {}, "1"), write)
    )
    assert shown["accuracy"].value.startswith("![accuracy](data:image/jpeg;base64,")
    assert len(shown["accuracy"].value) < MAX_PICTURE_BYTES + 100
    assert r"\<b\>x" in shown["table"].value


def test_pictures_tables_and_pages_of_an_artifact_are_shown(tiny_project: Project) -> None:
    def write(directory: Path, _: object) -> dict[str, float]:
        for name in ("similarity.png", "contact_sheet.png"):
            Image.new("RGB", (4, 4)).save(directory / name)
        (directory / "table.md").write_text(markdown_table(["<i>a</i>"], []))
        (directory / "dashboard.html").write_text("page")
        return {"classes": 10}

    artifact = tiny_project.store.build(Inputs("retrieved_set", "shapes", {}, {}, "1"), write)
    shown = describe(artifact)
    assert all("base64" in shown[name].value for name in ("similarity", "contact_sheet"))
    assert shown["table"].value.startswith(r"| \<i\>a\</i\> |")
    assert shown["dashboard"].value == str(artifact.path / "dashboard.html")


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, dg.DagsterExecutionInterruptedError])
def test_interrupted_step_is_not_tried_again(interruption: type[BaseException]) -> None:
    with pytest.raises(dg.Failure, match="interrupted") as failure, readable_failures():
        raise interruption
    assert failure.value.allow_retries is False
