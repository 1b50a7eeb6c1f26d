"""Which class vectors belong to a checkpoint, and which heads are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pandas as pd
import pytest
import torch
from support.upkeep import edit_domain
from torch.nn.functional import normalize

from react_pipeline.clip import (
    ClassHead,
    Clip,
    class_prompts,
    domain_head,
    load,
    load_classifier,
    prompt_vectors,
    zero_shot_head,
)
from react_pipeline.evaluation import EvalResult, evaluate
from react_pipeline.labelled import encode_images, read_images
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.store import Artifact, ConfigError, InputError

SHAPES = ["circle", "square", "triangle", "cross"]
TEMPLATES = ["a drawing of a {}", "a {} shape"]


@pytest.fixture
def project(retrieved_project: Project) -> Project:
    return retrieved_project


@pytest.fixture
def base(project: Project) -> Artifact:
    return project.store.current("base_checkpoint", "all")


def publish_head(project: Project, classes: list[str] = SHAPES, **bias: Any) -> Artifact:
    """A head of the domain `shapes`, as `customize` would publish it."""
    head = ClassHead(normalize(torch.randn(32, len(classes)), dim=0), **bias)

    def write(directory: Path, _: object) -> dict[str, int]:
        head.write(directory / "head.safetensors")
        (directory / "head.json").write_text(json.dumps({"classes": classes}))
        return {"pairs": 7}

    inputs = resolve(project, "customized_checkpoint", "shapes/linear-head")
    return project.store.build(inputs, write)


def test_a_head_is_measured_on_the_features_of_the_base(project: Project, base: Artifact) -> None:
    bias = torch.tensor([0.0, 0.0, 9.0, 0.0])
    checkpoint = publish_head(project, bias=bias)
    clip, head = load_classifier(checkpoint, base, project.domain("shapes"), "cpu")
    images = read_images(project.store.current("evaluation_set", "shapes"))
    vectors = encode_images(project.config, load(base.path), images)
    np.testing.assert_array_equal(vectors, encode_images(project.config, clip, images))
    predicted = (vectors @ head.vectors.numpy() + bias.numpy()).argmax(1)
    result = evaluate(project, "shapes", "linear-head")
    assert set(result.parents) == {"base_checkpoint", "customized_checkpoint", "evaluation_set"}
    rows = pd.read_parquet(result.file("predictions.parquet"))
    assert rows["predicted"].str[0].tolist() == predicted.tolist()
    assert EvalResult.read(result).top1 == np.mean(predicted == images["class_id"])


@pytest.mark.parametrize("classes", [["circle", "square", "triangle", "star"], SHAPES[::-1]])
def test_a_head_of_other_classes_is_refused(
    project: Project, base: Artifact, classes: list[str]
) -> None:
    checkpoint = publish_head(project, classes)
    with pytest.raises(InputError, match="rematerialize `customized_checkpoint`"):
        load_classifier(checkpoint, base, project.domain("shapes"), "cpu")


def test_equal_text_towers_encode_equal_prompts_once(
    base: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = load(base.path)
    encode = create_autospec(Clip.encode_texts, side_effect=Clip.encode_texts)
    monkeypatch.setattr(Clip, "encode_texts", encode)
    vectors = prompt_vectors(clip, ["a", "b"])
    expected = vectors.clone()
    vectors.zero_()  # which changes no other
    assert torch.equal(prompt_vectors(clip, ["b", "a"]), expected.flip(0))
    customized = load(base.path)
    with torch.no_grad():
        customized.model.logit_scale += 1
        next(customized.model.visual.parameters()).zero_()
    assert torch.equal(prompt_vectors(customized, ["a", "b"]), expected)
    with torch.no_grad():
        clip.model.text_projection.neg_()
    assert not torch.equal(prompt_vectors(clip, ["a", "b"]), expected)
    calls = ["".join(call.args[1]) for call in encode.call_args_list]
    assert calls == ["ab", "ba", "ab"]


def test_own_prompts_of_a_class_count_like_templates(project: Project, base: Artifact) -> None:
    clip = load(base.path)
    sentences = ["A square has four sides.", "A box seen from above."]
    edit_domain(project, "shapes", prompts={"square": sentences})
    domain = project.domain("shapes")
    head = domain_head(clip, domain)
    texts = ["a drawing of a square", "a square shape", *sentences]
    mean = torch.stack([clip.encode_texts([text])[0] for text in texts]).mean(dim=0)
    torch.testing.assert_close(head[:, 1], mean / mean.norm())
    others = [0, 2, 3]
    assert torch.equal(head[:, others], zero_shot_head(clip, SHAPES, TEMPLATES)[:, others])
    prompts = class_prompts(domain).query("prompt in @sentences")
    assert prompts[["class", "name"]].to_numpy().tolist() == [["square", ""]] * 2
    edit_domain(project, "shapes", prompts={"sqare": ["a box"]})
    with pytest.raises(ConfigError, match=r"'sqare'.*square"):
        project.domain("shapes")
