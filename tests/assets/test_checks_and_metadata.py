from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from assets.checks import count_bad_vectors, leakage, warning_below
from assets.metadata import MAX_IMAGE_BYTES, data_uri, describe, markdown_table
from assets.reporting import readable_failures
from react_pipeline.artifacts import Inputs
from react_pipeline.errors import CorruptArtifact, RetrievalError, StoreWriteError, TrainingError
from react_pipeline.lineage import Project


def test_rows_that_are_not_finite_or_not_unit_are_counted(tmp_path: Path) -> None:
    vectors = np.eye(4, 8, dtype=np.float16)
    vectors[1] = 0
    vectors[2, 3] = np.nan
    np.save(tmp_path / "img_emb_0.npy", vectors)
    assert count_bad_vectors(tmp_path / "img_emb_0.npy") == 2


@pytest.mark.parametrize(("digest", "nearest", "leaked"), [("c", 0.5, 0), ("b", 0.5, 1), ("c", 0.99, 1)])
def test_evaluation_image_among_the_pairs_fails_the_check(
    tiny_project: Project, digest: str, nearest: float, leaked: int
) -> None:
    def write_pairs(directory: Path) -> dict[str, int]:
        pairs = pd.DataFrame({"image_sha256": ["a", "b"], "evaluation_similarity": [0.1, nearest]})
        pairs.to_parquet(directory / "pairs.parquet")
        return {"pairs": 2}

    def write_images(directory: Path) -> dict[str, int]:
        images = pd.DataFrame({"path": ["x.png"], "sha256": [digest]})
        images.to_parquet(directory / "images.parquet")
        return {"images": 1}

    config = {"near_duplicate_similarity": 0.98}
    tiny_project.store.build(Inputs("retrieved_set", "shapes", config, {}, "1"), write_pairs)
    tiny_project.store.build(Inputs("evaluation_set", "shapes", {}, {}, "1"), write_images)
    result = leakage(tiny_project, "retrieved_set", "shapes")
    assert result.passed is (leaked == 0)
    assert result.metadata["leaked"].value == leaked


def test_loss_of_accuracy_only_warns() -> None:
    result = warning_below(-0.02, "top-1 less the base's", tolerance=1e-9)
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "-2.0 points" in str(result.description)
    assert warning_below(0.0, "", tolerance=1e-9).passed
    assert not warning_below(0.0, "", tolerance=-1e-9).passed


@pytest.mark.parametrize(
    "error", [RetrievalError("no pair"), TrainingError("diverged"), CorruptArtifact("bad"), KeyError("x")]
)
def test_what_fails_the_same_way_again_is_not_tried_again(error: Exception) -> None:
    with pytest.raises(dg.Failure) as failure, readable_failures():
        raise error
    assert failure.value.allow_retries is False
    assert str(error) in str(failure.value.description)


@pytest.mark.parametrize("error", [StoreWriteError("disk full"), OSError("network")])
def test_what_may_pass_is_tried_again(error: Exception) -> None:
    with pytest.raises(type(error)), readable_failures():
        raise error


def test_pictures_are_made_small_enough(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1_500, 1_500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert len(data_uri(tmp_path / "noise.png")) < MAX_IMAGE_BYTES + 100


def test_names_from_outside_cannot_break_out_of_a_table() -> None:  # FAULTS 34
    table = markdown_table(["class"], [["<img src=x onerror=alert(1)> | a\nb"]])
    assert "<img" not in table
    assert table.splitlines()[-1] == "| &lt;img src=x onerror=alert(1)&gt; \\| a b |"


def test_counts_are_typed_and_unavailable_results_say_why(tiny_project: Project) -> None:
    counts = {"n": 3, "share": 0.5, "ok": True, "dropped": {"cap": 2}, "starving": ["a", "b"], "unavailable": "no set"}
    artifact = tiny_project.store.build(Inputs("elevater_results", "shapes/base", {}, {}, "1"), lambda _: counts)
    shown = describe(artifact)
    assert (shown["n"], shown["share"], shown["dropped.cap"]) == (3, 0.5, 2)
    assert shown["ok"].value is True
    assert (shown["starving"].value, shown["unavailable"].value) == ("a, b", "no set")
    assert shown["fingerprint"] == artifact.fingerprint


def test_checkpoint_shows_recall_before_and_after_and_how_far_its_gates_opened(tiny_project: Project) -> None:
    def write(directory: Path) -> dict[str, object]:
        records = [{"step": step, "gate_attn_1": 0.1 * step, "gate_dense_1": 0.2 * step} for step in range(3)]
        (directory / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        before, after = {"r1_image_to_text": 0.25}, {"r1_image_to_text": 0.5}
        return {"images_per_second": 12.5, "held_out_before": before, "held_out_after": after}

    artifact = tiny_project.store.build(Inputs("customized_checkpoint", "shapes/gated-image", {}, {}, "1"), write)
    shown = describe(artifact)
    assert (shown["held_out_before.r1_image_to_text"], shown["held_out_after.r1_image_to_text"]) == (0.25, 0.5)
    assert shown["images_per_second"] == 12.5
    assert shown["table"].value.splitlines()[-1] == "| r1_image_to_text | 0.25 | 0.5 | 0.25 |"
    assert shown["gates"].value.splitlines()[-1] == "| 1 | 0.2 | 0.4 |"


def test_checkpoint_without_gates_or_held_out_pairs_shows_no_table(tiny_project: Project) -> None:
    def write(directory: Path) -> dict[str, object]:
        (directory / "metrics.jsonl").write_text('{"step": 0, "loss": 1.0}\n')
        return {"held_out_before": {}, "held_out_after": {}}

    artifact = tiny_project.store.build(Inputs("customized_checkpoint", "shapes/full", {}, {}, "1"), write)
    assert not {"table", "gates"} & set(describe(artifact))


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, dg.DagsterExecutionInterruptedError])
def test_interrupted_step_is_not_tried_again(interruption: type[BaseException]) -> None:
    with pytest.raises(dg.Failure, match="interrupted") as failure, readable_failures():
        raise interruption
    assert failure.value.allow_retries is False
