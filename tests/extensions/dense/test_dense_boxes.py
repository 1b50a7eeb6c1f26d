"""Boxes from every source, and what a detector makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from support.dense import OWN, write_sets
from torch import Tensor
from torchvision.models import get_model

from react_pipeline.clip.model import Clip, load
from react_pipeline.extensions.dense.boxes import box_source
from react_pipeline.extensions.dense.regions import Detector
from react_pipeline.extensions.dense.sets import BoxImages, read_dense_set
from react_pipeline.extensions.dense.settings import DenseConfig
from react_pipeline.store.errors import CorruptArtifact, InputError

RPN = "fasterrcnn_mobilenet_v3_large_320_fpn"


@pytest.fixture
def boxes(tmp_path: Path) -> BoxImages:
    write_sets(tmp_path / "shapes")
    found = read_dense_set(tmp_path, DenseConfig.model_validate({"own": OWN}).sets("shapes")[0])
    assert isinstance(found, BoxImages)
    return found


@pytest.fixture(scope="module")
def clip(tiny_checkpoint: Path) -> Clip:
    return load(tiny_checkpoint)


def config(images: BoxImages, **fields: Any) -> DenseConfig:
    return DenseConfig.model_validate({"root": images.source.root, **fields})


def test_true_boxes_leave_out_crowds(boxes: BoxImages) -> None:
    places, objectness = box_source("truth", boxes, config(boxes), "cpu")(0, boxes.image(0, 10_000))
    assert objectness is None and places.tolist() == [[4.0, 6.0, 28.0, 36.0]]


def test_boxes_of_a_results_file_come_with_their_scores(boxes: BoxImages) -> None:
    rows = [
        {"image_id": 101, "category_id": 3, "bbox": [50, 50, 40, 40], "score": 0.75},
        {"image_id": 101, "category_id": 3, "bbox": [70, 70, 4, 4], "score": 0.9},
        {"image_id": 5, "category_id": 3, "bbox": [0, 0, 4, 4], "score": 0.9},
        {"image_id": 101, "category_id": 3, "bbox": [50, 50, 13.5, 14], "score": 0.6},
        {"image_id": 101, "category_id": 3, "bbox": [2, 2, 4, 4], "score": 0.5},
    ]
    path = boxes.source.root / "boxes" / "boxes.json"
    path.parent.mkdir()
    path.write_text(json.dumps(rows))
    source = box_source("file", boxes, config(boxes), "cpu")
    places, objectness = source(1, boxes.image(1, 10_000))
    # Cut to the image. Left out: one beside it, one of another image, one that overlaps by more
    # than 0.9, one that is no likely object.
    assert (
        places.tolist() == [[50.0, 50.0, 64.0, 64.0]]
        and objectness is not None
        and objectness.tolist() == [0.75]
    )
    assert source(2, boxes.image(2, 10_000))[0].shape == (0, 4)
    for wrong in (
        "[]",
        "{",
        json.dumps([{**rows[0], "score": 3.5}]),
        json.dumps([{"image_id": 101}]),
    ):
        path.write_text(wrong)
        with pytest.raises(InputError, match="boxes_file"):
            box_source("file", boxes, config(boxes), "cpu")
    path.unlink()
    with pytest.raises(InputError, match="boxes_file"):
        box_source("file", boxes, config(boxes), "cpu")


def test_proposals_of_a_checkpoint_are_torchvisions_own(boxes: BoxImages, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = get_model(RPN, weights=None, weights_backbone=None, num_classes=5).eval()
    torch.save(model.state_dict(), tmp_path / "rpn.pt")
    set_up = config(boxes, boxes=["rpn"], rpn_checkpoint=tmp_path / "rpn.pt", rpn_model=RPN)
    image = boxes.image(0, 10_000)
    places, objectness = box_source("rpn", boxes, set_up, "cpu")(0, image)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    model.rpn.nms_thresh, model.rpn._post_nms_top_n["testing"] = 0.9, 1_000
    with torch.inference_mode():
        batch, _ = model.transform([pixels])
        (wanted,), _ = model.rpn(batch, model.backbone(batch.tensors))
    scale = 64 / torch.tensor(batch.image_sizes[0]).flip(0).repeat(2)
    assert objectness is not None and 0 < len(objectness) == len(places)
    assert (objectness.diff() <= 1e-6).all() and (objectness >= 0.5).all()
    # The likeliest come first in both.
    torch.testing.assert_close(places, (wanted * scale)[: len(places)])
    for name in ("retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn"):
        with pytest.raises(InputError, match="rpn_checkpoint"):
            box_source("rpn", boxes, set_up.model_copy(update={"rpn_model": name}), "cpu")


def test_boxes_of_a_network_need_its_weights(boxes: BoxImages) -> None:
    with pytest.raises(ValidationError, match="rpn_checkpoint"):
        config(boxes, boxes=["rpn"])


def detector(
    clip: Clip, monkeypatch: pytest.MonkeyPatch, vectors: Tensor, **fields: Any
) -> Detector:
    """One whose regions have given vectors, over three classes whose vectors are the axes."""
    made = Detector(clip, ["a", "b", "c"], ["{}"], DenseConfig.model_validate(fields))
    made.vectors.head.copy_(torch.eye(32)[:, :3])
    monkeypatch.setattr(made, "region_vectors", lambda _image, _boxes: vectors)
    return made


PLACES = torch.tensor([[0.0, 0.0, 20.0, 20.0], [1.0, 1.0, 21.0, 21.0], [40.0, 40.0, 60.0, 60.0]])


def test_overlapping_boxes_of_one_class_are_suppressed(
    clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = torch.tensor([[1.0, 0.99, 0.0], [0.98, 1.0, 0.0], [0.0, 0.0, 1.0]])
    vectors = torch.nn.functional.normalize(torch.nn.functional.pad(close, (0, 29)), dim=-1)
    boxes, scores, classes = detector(clip, monkeypatch, vectors)(
        Image.new("RGB", (64, 64)), PLACES, None
    )
    found = sorted(zip(classes.tolist(), boxes[:, 0].tolist(), strict=True))
    assert found == [(0, 0.0), (1, 1.0), (2, 40.0)]
    assert (scores.diff() <= 0).all() and scores[0] == pytest.approx(1.0, abs=1e-4)


def test_objectness_is_fused_by_the_root_of_the_product(
    clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = torch.eye(32)[:3]
    made = detector(clip, monkeypatch, vectors)
    objectness = torch.tensor([0.25, 1.0, 0.0])
    _, scores, classes = made(Image.new("RGB", (64, 64)), PLACES, objectness)
    assert dict(zip(classes.tolist(), scores.tolist(), strict=True)) == pytest.approx(
        {0: 0.5, 1: 1.0}, abs=1e-4
    )
    made = detector(clip, monkeypatch, torch.full((3, 32), float("nan")))
    with pytest.raises(CorruptArtifact, match="finite"):
        made(Image.new("RGB", (64, 64)), PLACES, None)


@pytest.mark.parametrize("regions", ["crop", "roi"])
def test_regions_of_an_image_are_encoded_and_may_be_none(clip: Clip, regions: str) -> None:
    made = Detector(clip, ["a", "b"], ["{}"], DenseConfig.model_validate({"regions": regions}))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    vectors = made.region_vectors(image, PLACES)
    assert vectors.shape == (3, 32)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))
    assert all(len(part) == 0 for part in made(image, torch.zeros(0, 4), None))
    if regions == "crop":  # the whole image, which is as large as the model's input, is the image
        small = image.crop((0, 0, 32, 32))
        whole = made.region_vectors(small, torch.tensor([[0.0, 0.0, 32.0, 32.0]]))
        wanted = clip.encode_images(clip.preprocess(small)[None])
        torch.testing.assert_close(whole, wanted, atol=1e-4, rtol=1e-3)
