"""Every blocking check passes what is right, and fails for what it is there for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.upkeep import edit_domain

from react_pipeline.assets import corpus, domains, training
from react_pipeline.assets.declared import blocking_checks
from react_pipeline.corpus.collected import CollectedPairs
from react_pipeline.embedding.vectors import GROUPS_FILE
from react_pipeline.extensions.dense import assets as dense_assets
from react_pipeline.extensions.elevater import assets as elevater_assets
from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.stage import STAGES
from react_pipeline.store.artifacts import Inputs

Write = Callable[..., dict[str, Any]]


def counts(**values: Any) -> Write:
    return lambda *_: values


def losses(*values: float) -> Write:
    def write(staging: Path, _: object) -> dict[str, Any]:
        lines = [
            json.dumps({"step": step, "loss": value}) + "\n" for step, value in enumerate(values)
        ]
        (staging / "metrics.jsonl").write_text("".join(lines))
        return {}

    return write


def vectors(name: str, value: float) -> Write:
    def write(staging: Path, _: object) -> dict[str, Any]:
        rows = np.eye(3, 4, dtype=np.float32)
        rows[1, 1] = value
        for path in (staging / name, staging / "text_emb" / "text_emb_0.npy"):
            path.parent.mkdir(exist_ok=True)
            np.save(path, rows)
        (staging / "metadata").mkdir()
        pd.DataFrame({"caption": ["a", "b", "c"]}).to_parquet(
            staging / "metadata" / "metadata_0.parquet"
        )
        (staging / GROUPS_FILE).write_text('{"rows": 3}\n')
        return {"rows": 3, "dimension": 4}

    return write


def results(**row: Any) -> Write:
    def write(staging: Path, _: object = None) -> dict[str, Any]:
        pd.DataFrame([{"value": 0.5, "unavailable": None, "n": 4, **row}]).to_parquet(
            staging / "results.parquet"
        )
        return {"datasets_evaluated": 1, "of": 20}

    return write


def dense(**fields: Any) -> Write:
    """A detection in an image of 40 x 30 pixels and a figure of its set, with these fields."""

    def write(staging: Path, _: object) -> dict[str, Any]:
        (staging / "detections").mkdir()
        box = {"image_id": 1, "score": 0.5, "bbox": [10, 10, 20, 20], **fields}
        (staging / "detections" / "voc--truth.json").write_text(json.dumps([box]))
        pd.DataFrame({"set": ["voc"], "image_id": [1], "width": [40], "height": [30]}).to_parquet(
            staging / "images.parquet"
        )
        names = {"set": "voc", "source": "truth", "figure": "ap50"}
        results(**names, **fields)(staging)
        return {"not_measured": {}}

    return write


def recall(value: float) -> Write:
    return counts(recall_at_10={"image": value}, recall_at_100={"image": 1.0}, key="", reason="")


STARVING = {"max_starving_fraction": 0.25, "min_per_class": 2}
GATED, HEAD = "shapes/gated-image", "shapes/linear-head"
IMAGES = "img_emb/img_emb_0.npy"
# A check, the key of its artifact, what passes, and all that fails.
CASES: list[tuple[Any, ...]] = [
    (
        corpus.vectors_are_finite_and_unit_norm,
        "all",
        *(vectors(IMAGES, value) for value in (1, np.nan, 2)),
    ),
    (corpus.index_holds_every_row, "all", counts(rows=3), counts(rows=4)),
    (corpus.recall_is_sufficient, "all", recall(1), recall(0.1)),
    (
        domains.classes_have_pairs,
        "shapes",
        counts(starving=["circle"], starving_fraction=0.25),
        counts(starving=["circle", "square"], starving_fraction=0.5),
    ),
    (training.loss_is_finite, GATED, losses(2, 1), losses(2, float("nan"), 1), losses()),
    (
        training.training_starts_at_the_base,
        GATED,
        counts(step0_max_difference=0.0),
        counts(step0_max_difference=1e-6),
    ),
    (
        training.training_starts_at_the_base,
        HEAD,
        counts(step0_max_difference=1e-6),
        counts(step0_max_difference=1e-2),
    ),
    (
        elevater_assets.features_are_finite_and_have_a_direction,
        GATED,
        vectors("a.npy", 1),
        vectors("a.npy", 0),
    ),
    (
        elevater_assets.what_is_unavailable_has_no_value,
        GATED,
        results(),
        results(unavailable="not downloaded"),
        results(value=None),
        results(n=0),
        results(value=1.5),
    ),
    (
        dense_assets.detections_are_finite_and_in_their_images,
        GATED,
        dense(),
        dense(score=float("nan")),
        dense(bbox=[30, 10, 20, 20]),
    ),
    (
        dense_assets.what_was_not_measured_has_no_value,
        GATED,
        dense(),
        dense(unavailable="not downloaded"),
        dense(value=1.5),
    ),
]
LEAKAGE = {"retrieved_set_holds_no_evaluation_image", "control_set_holds_no_evaluation_image"}
STAGE_OF = {name: stage for stage in STAGES for name in blocking_checks(stage)}


def outcome(check: Any, project: Project, key: str) -> bool:
    return bool(check(project, project.store.current(STAGE_OF[check.__name__], key)).passed)


def test_every_blocking_check_is_shown_failing_here() -> None:
    assert {check.__name__ for check, *_ in CASES} | LEAKAGE == set(STAGE_OF)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].__name__)
def test_a_blocking_check_fails_for_what_it_is_there_for(
    make_project: Callable[..., Project], case: tuple[Any, ...]
) -> None:
    project = make_project(retrieval=STARVING)
    check, key, *writes = case
    stage = STAGE_OF[check.__name__]
    if stage == "faiss_index":
        project.store.build(Inputs("corpus_embeddings", "all", {}, {}, "1"), vectors(IMAGES, 1))
    for number, write in enumerate(writes):
        project.store.build(Inputs(stage, key, {"number": number}, {}, "1"), write)
        assert outcome(check, project, key) is (number == 0)


@pytest.mark.parametrize("name", sorted(LEAKAGE))
def test_pairs_that_hold_an_evaluation_image_fail_their_check(
    retrieved_project: Project, tmp_path: Path, name: str
) -> None:
    check, stage = getattr(domains, name), STAGE_OF[name]
    assert outcome(check, retrieved_project, "shapes")
    _, image, _, _ = next(iter(CollectedPairs(retrieved_project.store.current(stage, "shapes"))))
    folder = tmp_path / "measured" / "circle"
    folder.mkdir(parents=True)
    (folder / "leaked.png").write_bytes(image)
    evaluation = {"name": "measured", "kind": "folder", "path": str(folder.parent)}
    edit_domain(retrieved_project, "shapes", evaluation=evaluation)
    publish_evaluation_set(retrieved_project, "shapes")
    assert not outcome(check, retrieved_project, "shapes")
