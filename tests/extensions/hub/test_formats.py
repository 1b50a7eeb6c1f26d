"""Further formats of an exported model, each read by the program that it is for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from support.customized import customized

from react_pipeline.clip import load
from react_pipeline.corpus import CollectedPairs
from react_pipeline.evaluation import EvalResult, evaluate
from react_pipeline.extensions.hub.card import _base_on_hub
from react_pipeline.extensions.hub.export import export
from react_pipeline.labelled import publish_evaluation_set
from react_pipeline.project import Project
from react_pipeline.retrieval import draw_control, retrieve_pairs
from react_pipeline.store import InputError


def test_the_loss_of_8_bits_is_measured_on_the_pairs(
    retrieved_project: Project, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="onnx-int8"):
        export(retrieved_project, "shapes", "gated-image", tmp_path / "to", formats=["tflite"])
    customized(retrieved_project, "gated-image")
    folder = export(
        retrieved_project, "shapes", "gated-image", tmp_path / "to", formats=["onnx-int8", "onnx"]
    )
    loss = json.loads((folder / "export.json").read_text())["formats"]["onnx-int8"]
    pairs = CollectedPairs(retrieved_project.store.current("retrieved_set", "shapes"))
    preprocess = load(folder).preprocess
    batch = torch.stack([preprocess(pairs.decoded(place)) for place in range(len(pairs))])
    exact, ours = (
        onnxruntime.InferenceSession(str(folder / name))
        .run(["similarities"], {"batch": batch.numpy()})[0]
        .argmax(axis=1)
        for name in ("model.onnx", "model.int8.onnx")
    )
    assert loss == {"pairs": len(pairs), "agreement": float(np.mean(ours == exact))}
    assert (folder / "model.int8.onnx").stat().st_size < (folder / "model.onnx").stat().st_size
    assert f"for {100 * loss['agreement']:.1f}%" in (folder / "README.md").read_text()


def test_8_bits_need_no_full_precision_and_no_labels(
    retrieved_project: Project, tmp_path: Path
) -> None:
    path = retrieved_project.config.domains / "shapes.yaml"
    path.write_text(path.read_text().split("evaluation:")[0])
    for publish in (publish_evaluation_set, retrieve_pairs, draw_control):
        publish(retrieved_project, "shapes")
    customized(retrieved_project, "locked-text")
    assert EvalResult.read(evaluate(retrieved_project, "shapes", "locked-text")).top1 is None
    folder = export(
        retrieved_project, "shapes", "locked-text", tmp_path / "to", formats=["onnx-int8"]
    )
    assert not (folder / "model.onnx").exists()
    card = ModelCard.load(folder / "README.md")
    assert "unavailable" in card.content
    assert (card.data.library_name, card.data.base_model) == ("open_clip", None)
    assert card.data.tags == ["clip", "react", "locked-text"]


@pytest.mark.parametrize(
    ("pretrained", "name"),
    [
        ("laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
        ("hf-hub:timm/ViT-B-16-SigLIP2@main", "timm/ViT-B-16-SigLIP2"),
        ("/some/folder", None),
        (None, None),
    ],
)
def test_a_base_is_named_as_on_the_hub(pretrained: str | None, name: str | None) -> None:
    assert _base_on_hub({"model": "react_ViT-B-32", "pretrained": pretrained}) == name
