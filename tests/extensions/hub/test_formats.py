"""Further formats of an exported model, each read by the program that it is for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from support.customized import customized
from support.drawings import draw, encode

from react_pipeline.clip import load
from react_pipeline.evaluation import EvalResult, evaluate
from react_pipeline.extensions.hub.card import _base_on_hub
from react_pipeline.extensions.hub.export import export
from react_pipeline.extensions.hub.exported_folder import ModelForm
from react_pipeline.extensions.hub.formats import Exported
from react_pipeline.extensions.hub.space import write_space
from react_pipeline.labelled import publish_evaluation_set, read_images
from react_pipeline.project import Project
from react_pipeline.retrieval import draw_control, retrieve_pairs
from react_pipeline.store import InputError
from react_pipeline.use import Classifier


def test_the_loss_of_8_bits_is_measured_on_labelled_images(
    retrieved_project: Project, tmp_path: Path
) -> None:
    customized(retrieved_project, "gated-image")
    measured = EvalResult.read(evaluate(retrieved_project, "shapes", "gated-image"))
    folder = export(
        retrieved_project, "shapes", "gated-image", tmp_path / "to", formats=["onnx", "onnx-int8"]
    )
    loss = json.loads((folder / "export.json").read_text())["formats"]["onnx-int8"]
    images = read_images(retrieved_project.store.current("evaluation_set", "shapes"))
    preprocess = load(folder).preprocess
    batch = torch.stack([preprocess(Image.open(path).convert("RGB")) for path in images["path"]])
    ids = {}
    for name in ("model.onnx", "model.int8.onnx"):
        session = onnxruntime.InferenceSession(str(folder / name))
        ids[name] = session.run(["similarities"], {"batch": batch.numpy()})[0].argmax(axis=1)
    ours, exact = ids["model.int8.onnx"], ids["model.onnx"]
    labels = images["class_id"].to_numpy()
    assert loss == {
        "pictures": len(images),
        "of": "drawn shapes",
        "agreement": float(np.mean(ours == exact)),
        "top1": float(np.mean(ours == labels)),
        "top1_fp32": float(np.mean(exact == labels)),
    }
    assert loss["top1_fp32"] == measured.top1
    assert (folder / "model.int8.onnx").stat().st_size < (folder / "model.onnx").stat().st_size
    card = (folder / "README.md").read_text()
    assert f"for {100 * loss['agreement']:.1f}%" in card
    assert f"top-1 {100 * loss['top1']:.1f}%" in card


WITHOUT_THIS_PACKAGE = """
import runpy, sys
sys.modules["react_pipeline"] = sys.modules["gradio"] = None
sys.path.insert(0, sys.argv[1])
classify = runpy.run_path(sys.argv[1] + "/app.py")["classify"]
import json
from PIL import Image
print(json.dumps([classify(Image.open(sys.argv[2])), classify(None)]))
"""


@pytest.mark.skipif("not hasattr(__import__('open_clip').factory, 'LOCAL_DIR_PREFIX')")
@pytest.mark.slow
@pytest.mark.operations
def test_the_app_of_a_space_labels_as_this_package_does(
    retrieved_project: Project, tmp_path: Path
) -> None:
    customized(retrieved_project, "gated-image")
    evaluate(retrieved_project, "shapes", "gated-image")
    folder = export(
        retrieved_project, "shapes", "gated-image", tmp_path / "space", formats=["space"]
    )
    card = ModelCard.load(folder / "README.md").data
    assert (card.sdk, card.app_file) == ("gradio", "app.py")
    picture = tmp_path / "picture.png"
    picture.write_bytes(encode(draw("circle", "red", 1)))
    command = [sys.executable, "-c", WITHOUT_THIS_PACKAGE, str(folder), str(picture)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    labels, nothing = json.loads(done.stdout)
    assert nothing == {}
    (exact,) = Classifier.load(folder, precision="fp32").predict([picture])
    assert max(labels, key=labels.get) == exact.classes[0]
    assert labels[exact.classes[0]] == pytest.approx(exact.confidence, abs=1e-4)
    assert sum(labels.values()) == pytest.approx(1, abs=1e-4)


def test_a_space_needs_a_model_that_open_clip_loads(tmp_path: Path) -> None:
    ours = ModelForm(False, "modules of the method x", None, False, False)
    with pytest.raises(InputError, match="Space"):
        write_space(Exported(None, None, tmp_path, None, ours))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_card_has_the_results_of_the_artifact(retrieved_project: Project, tmp_path: Path) -> None:
    customized(retrieved_project, "locked-text")

    def card(name: str) -> Any:
        to = tmp_path / name
        export(retrieved_project, "shapes", "locked-text", to)
        return ModelCard.load(to / "README.md").data

    before = card("before")
    assert before.eval_results is None and "model-index" not in before.to_dict()
    assert (before.library_name, before.base_model) == ("open_clip", None)
    assert before.tags == ["clip", "react", "locked-text"]
    base = EvalResult.read(evaluate(retrieved_project, "shapes", "base"))
    own = EvalResult.read(evaluate(retrieved_project, "shapes", "locked-text"))
    (result,) = card("after").eval_results
    assert result.metric_value == own.top1 and result.metric_args == {"base": base.top1}
    assert result.dataset_args == {"images": own.n, "classes": 4}
    assert (result.dataset_name, result.metric_type) == ("drawn shapes", "accuracy")


def test_without_labels_no_result_is_claimed(retrieved_project: Project, tmp_path: Path) -> None:
    path = retrieved_project.config.domains / "shapes.yaml"
    lines = path.read_text().split("evaluation:")[0]
    path.write_text(lines)
    for publish in (publish_evaluation_set, retrieve_pairs, draw_control):
        publish(retrieved_project, "shapes")
    customized(retrieved_project, "locked-text")
    assert EvalResult.read(evaluate(retrieved_project, "shapes", "locked-text")).top1 is None
    folder = export(
        retrieved_project, "shapes", "locked-text", tmp_path / "to", formats=["onnx-int8"]
    )
    assert ModelCard.load(folder / "README.md").data.eval_results is None
    assert "unavailable" in (folder / "README.md").read_text()
    # The loss of 8 bits is then measured on pairs, whose labels nobody checked.
    loss = json.loads((folder / "export.json").read_text())["formats"]["onnx-int8"]
    pairs = retrieved_project.store.current("retrieved_set", "shapes").counts["pairs"]
    assert loss.keys() == {"pictures", "of", "agreement"} and loss["pictures"] == pairs
    assert not (folder / "model.onnx").exists()


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
