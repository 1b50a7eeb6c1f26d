"""Zero-shot evaluation: the head, the metrics, and what a result holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.drawings import SHAPES

from react_pipeline.clip import Clip, load, publish_base, save, zero_shot_head
from react_pipeline.corpus import decode_image
from react_pipeline.evaluation import EvalResult, Scores, evaluate
from react_pipeline.evaluation.domain_results import score
from react_pipeline.labelled import publish_evaluation_set, read_images
from react_pipeline.project import Project
from react_pipeline.stage import STAGES
from react_pipeline.store import CorruptArtifact


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    project = make_project(embedding={"precision": "bf16"})
    publish_base(project)
    publish_evaluation_set(project, "shapes")
    return project


def test_metrics_count_ranks_and_average_over_shown_classes() -> None:
    ranked = np.array([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [5, 4, 3, 2, 1], [1, 2, 3, 4, 5]])
    logits = np.zeros((4, 6), np.float32)
    values = score(Scores(ranked, np.array([0, 0, 0, 1]), list("abcdef"), logits))
    assert (values["n"], values["top1"], values["top5"]) == (4, 0.5, 0.75)
    assert values["mean_per_class"] == pytest.approx((1 / 3 + 1) / 2)


def test_a_result_agrees_with_its_tables_and_a_hand_sum(project: Project) -> None:
    result = evaluate(project, "shapes", "base")
    value = EvalResult.read(result)
    images = read_images(project.store.current("evaluation_set", "shapes"))
    clip = load(project.store.current("base_checkpoint", "all").path)
    decoded = (decode_image(Path(path).read_bytes(), 10_000) for path in images["path"])
    head = zero_shot_head(clip, SHAPES, ["a drawing of a {}", "a {} shape"])
    vectors = clip.encode_images(torch.stack([clip.preprocess(one) for one in decoded]))
    probabilities = (100 * vectors @ head).softmax(dim=1).numpy()
    predictions = pd.read_parquet(result.file("predictions.parquet"))
    assert predictions["image"].tolist() == images["name"].tolist()
    assert predictions["predicted"].str[0].tolist() == probabilities.argmax(axis=1).tolist()
    # In full precision, whatever the embeddings are in.
    assert result.counts["precision"] == "fp32"
    np.testing.assert_allclose(predictions["probability"], probabilities.max(axis=1), rtol=1e-4)
    right = (probabilities.argmax(axis=1) == images["class_id"]).mean()
    assert value.top1 == right == result.counts["top1"]
    per_class = pd.read_parquet(result.file("per_class.parquet"))
    assert per_class["class"].tolist() == list(SHAPES)
    assert (per_class["accuracy"] * per_class["images"]).sum() == pytest.approx(right * value.n)
    assert (per_class["images"] == 4).all() and (per_class["correct_top5"] == 4).all()


def test_a_result_names_what_it_was_measured_on_and_with(
    project: Project, make_project: Callable[..., Project]
) -> None:
    result = evaluate(project, "shapes", "base")
    value = EvalResult.read(result)
    assert (value.dataset, value.domain, value.method) == ("drawn shapes", "shapes", "base")
    assert (value.protocol, value.n, value.n_classes) == ("zero-shot", 16, 4)
    assert value.evaluator_version == STAGES["domain_results"].version
    assert result.counts["calibration_error"] == value.calibration_error != value.uncalibrated_error
    assert value.top5 == 1.0  # of four classes, all count
    parents = result.parents
    assert value.checkpoint_fingerprint == parents["base_checkpoint"]
    assert value.evaluation_set_fingerprint == parents["evaluation_set"]
    assert evaluate(make_project(embedding={"precision": "fp32"}), "shapes", "base").reused


def test_features_that_are_not_finite_give_no_number(
    make_project: Callable[..., Project], clip: Clip, tmp_path: Path
) -> None:
    with torch.no_grad():
        clip.model.visual.proj.fill_(float("nan"))
    save(clip, tmp_path)
    project = make_project(encoder={"pretrained": str(tmp_path)})
    publish_base(project)
    publish_evaluation_set(project, "shapes")
    with pytest.raises(CorruptArtifact, match="not finite"):
        evaluate(project, "shapes", "base")
    assert project.store.keys("domain_results") == []
