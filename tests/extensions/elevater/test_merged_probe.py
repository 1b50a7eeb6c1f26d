"""A linear probe whose head is merged with the tower's projection: features before it, head,
figures, lineage.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from open_clip.model import CLIP
from PIL import Image
from support_elevater import write_elevater

from react_pipeline.clip.base import publish_base
from react_pipeline.clip.classifier import zero_shot_head
from react_pipeline.clip.model import from_parts, load, save
from react_pipeline.extensions.elevater.datasets import dataset
from react_pipeline.extensions.elevater.features import Features, publish_features
from react_pipeline.extensions.elevater.head import Head
from react_pipeline.extensions.elevater.probe import FeatureExamples, linear_probe
from react_pipeline.extensions.elevater.readers import read_dataset
from react_pipeline.extensions.elevater.results import publish_results
from react_pipeline.extensions.elevater.shots import split_training
from react_pipeline.lineage import resolve
from react_pipeline.project.project import Project

NAME = "fer-2013"
D, W = 16, 48
VIT = {"image_size": 32, "layers": 1, "width": W, "head_width": 16, "patch_size": 16}
TIMM = {"image_size": 160, "timm_model_name": "test_vit"}
MERGED = {"shots": [5], "seeds": 1, "merge_projection": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_elevater(
        tmp_path_factory.mktemp("elevater"), {"train": 6, "val": 1, "test": 3}, only=[NAME]
    )


@pytest.fixture
def project_of(
    make_project: Callable[..., Project], data: Path, tmp_path: Path
) -> Callable[..., Project]:
    """A project whose base has this image tower; all of a test share the store."""

    def make(vision: dict[str, Any], **elevater: object) -> Project:
        checkpoint = tmp_path / "checkpoint"
        if not checkpoint.exists():
            text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
            model_cfg = {"embed_dim": D, "vision_cfg": vision, "text_cfg": text}
            torch.manual_seed(0)
            statistics = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
            save(from_parts(CLIP(**model_cfg), model_cfg, statistics, None), checkpoint)
        project = make_project(
            elevater={"root": str(data), "datasets": [NAME], **elevater},
            encoder={"pretrained": str(checkpoint)},
        )
        publish_base(project)
        return project

    return make


def rows_of(project: Project) -> tuple[pd.DataFrame, Path]:
    publish_features(project, "shapes", "base")
    artifact = publish_results(project, "shapes", "base")
    rows = pd.read_parquet(artifact.file("results.parquet"))
    return rows.set_index(["adaptation", "protocol"]), artifact.path


def test_figures_equal_a_probe_by_hand_on_features_of_a_tower_without_its_projection(
    project_of: Callable[..., Project], data: Path
) -> None:
    project = project_of(VIT, **MERGED)
    rows, path = rows_of(project)
    clip, entry = load(project.store.current("base_checkpoint", "all").path), dataset(NAME)
    head = Head.from_text(zero_shot_head(clip, entry.class_names, entry.templates))
    projection = clip.model.visual.proj.detach().clone()
    clip.model.visual.proj = None
    by_hand = []
    for split in ("train", "test"):
        images = read_dataset(data, NAME, split)
        pictures = [
            Image.open(io.BytesIO(images.read(number))).convert("RGB")
            for number in range(len(images))
        ]
        with torch.inference_mode():
            features = clip.model.encode_image(
                torch.stack([clip.preprocess(picture) for picture in pictures])
            )
        by_hand.append(FeatureExamples(features.clone(), torch.from_numpy(images.labels)))
    train, test = by_hand
    assert train.features.shape[1] == W
    merged = Head(head.weight @ projection.T, head.bias)
    split = split_training(train.labels.numpy(), n_classes=7, shots=5, seed=0)
    expected = linear_probe(train, test, merged, split, "accuracy")
    assert rows.loc[("linear-probe", "clean"), "value"] == expected.clean
    assert rows.loc[("linear-probe", "elevater"), "value"] == expected.elevater
    assert (
        rows.loc[("linear-probe", "clean"), "learning_rate"] == expected.search.best.learning_rate
    )
    prediction = json.loads((path / f"predictions/linear_probe_5/seed0_{NAME}.json").read_text())
    assert prediction["num_trainable_params"] == 7 * (W + 1)
    order = read_dataset(data, NAME, "test").order
    np.testing.assert_allclose(
        prediction["predictions"][0], expected.final.best_probabilities[:, order], atol=1e-4
    )


def test_both_kinds_of_features_come_from_one_pass_and_the_others_stay_as_they_are(
    project_of: Callable[..., Project],
) -> None:
    plain = publish_features(project_of(VIT, shots=[5]), "shapes", "base")
    project = project_of(VIT, **MERGED)
    merged = publish_features(project, "shapes", "base")
    assert plain.fingerprint != merged.fingerprint
    projection = (
        load(project.store.current("base_checkpoint", "all").path)
        .model.visual.proj.detach()
        .numpy()
    )
    for split in ("train", "test"):
        before, after = (Features.read(artifact, NAME, split) for artifact in (plain, merged))
        assert before.unprojected is None
        assert after.unprojected is not None
        assert np.array_equal(before.features, after.features)
        assert after.unprojected.shape == (len(after.labels), W)
        np.testing.assert_allclose(after.unprojected @ projection, after.features, atol=1e-5)


def test_features_are_taken_over_only_from_artifacts_that_have_all_that_is_wanted(
    project_of: Callable[..., Project],
) -> None:
    publish_features(project_of(VIT, shots=[5]), "shapes", "base")
    merged = publish_features(project_of(VIT, **MERGED), "shapes", "base")
    assert merged.counts["splits_taken_over"] == 0
    again = publish_features(project_of(VIT, **MERGED), "colours", "base")
    assert again.counts["splits_taken_over"] == 2
    first, second = (
        Features.read(artifact, NAME, "test").unprojected for artifact in (merged, again)
    )
    assert first is not None
    assert second is not None
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    "elevater",
    [
        {"shots": [5], "adaptations": ["fine-tune"], "merge_projection": True},
        {"merge_projection": True},
    ],
    ids=["fine-tune only", "no shots"],
)
def test_without_a_probe_the_features_are_those_without_a_merge(
    project_of: Callable[..., Project], elevater: dict[str, object]
) -> None:
    without = {**elevater, "merge_projection": False}
    merged, plain = (
        resolve(project_of(VIT, **fields), "benchmark_features", "shapes/base", content={})
        for fields in (elevater, without)
    )
    assert merged.fingerprint == plain.fingerprint
    artifact = publish_features(project_of(VIT, **elevater), "shapes", "base")
    assert not [name for name in artifact.manifest["files"] if "unprojected" in name]


def test_a_tower_without_a_projection_matrix_is_unavailable_with_its_reason_and_keeps_its_zero_shot(
    project_of: Callable[..., Project],
) -> None:
    rows, _ = rows_of(project_of(TIMM, **MERGED))
    assert rows.loc[("zero-shot", "zero-shot"), "value"] >= 0
    probes = rows.loc["linear-probe"]
    assert len(probes) == 2
    assert probes["value"].isna().all()
    assert probes["unavailable"].str.contains("TimmModel: has no projection matrix").all()
