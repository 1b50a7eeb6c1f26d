"""Heads without training: `ncm` and `gda`, each formula once more in plain tensor algebra."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.upkeep import edit_domain
from torch.nn.functional import normalize

from react_pipeline import Classifier
from react_pipeline.clip import ClassHead
from react_pipeline.evaluation import evaluate
from react_pipeline.extensions.methods import HeadMethod, HeadSamples
from react_pipeline.extensions.methods.gda import Gda
from react_pipeline.extensions.methods.ncm import Ncm
from react_pipeline.project import Project
from react_pipeline.settings import TrainingConfig
from react_pipeline.training import customize

D, C, EACH = 8, 4, 30
"""Dimensions, classes, of which the last has no pairs, and pairs of each other one."""


def samples(seed: int = 0) -> HeadSamples:
    """Unit vectors around a mean of each class, along one of which they scatter most."""
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(D, C, generator=rng)
    class_ids = torch.arange(C - 1).repeat(EACH)
    noise = torch.randn(len(class_ids), D, generator=rng) * torch.linspace(0.1, 1.5, D)
    images = normalize(means.T[class_ids] + noise, dim=1)
    zero_shot = normalize(torch.randn(D, C, generator=rng), dim=0)
    return HeadSamples(zero_shot, images, images, class_ids, zero_shot.T, torch.arange(C))


def joined(method: HeadMethod, of: HeadSamples, fraction: float) -> ClassHead:
    log: Any = None
    fitted, _ = method.fit(of, TrainingConfig(), log)
    return method.join(ClassHead(of.zero_shot), fitted, fraction)


def test_gda_adds_the_papers_logits_to_the_zero_shot_ones() -> None:
    of = samples()
    means = torch.stack([of.images[of.class_ids == c].mean(dim=0) for c in range(C - 1)], dim=1)
    residuals = of.images - means.T[of.class_ids]
    covariance = residuals.T.cov()
    shrunk = (len(residuals) - 1) * covariance + covariance.trace() * torch.eye(D)
    weights = D * torch.linalg.pinv(shrunk) @ means
    bias = -0.5 * (means * weights).sum(dim=0)
    images = samples(1).images
    a = 0.7
    logits = 100 * images @ of.zero_shot[:, :3] + a * (images @ weights + bias)
    scores = joined(Gda(), of, a / 100).scores(images)[:, :3]
    # Between classes: what all of them get alike decides nothing.
    ours, theirs = (one - one.mean(dim=1, keepdim=True) for one in (100 * scores, logits))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", [Ncm(), Gda()])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_a_class_without_pairs_keeps_its_text(method: HeadMethod, fraction: float) -> None:
    of = samples()
    head = joined(method, of, fraction)
    assert torch.equal(head.vectors[:, 3], of.zero_shot[:, 3])
    assert not head.bias.dim() or head.bias[3] == 0
    if not fraction:
        assert torch.equal(head.scores(of.images), of.images @ of.zero_shot)


@pytest.mark.parametrize("fraction", [0.25, 1.0])
def test_ncm_keeps_images_of_a_class_without_pairs(fraction: float) -> None:
    # Texts and images point two ways, as those of CLIP do, and have their class in common.
    of, dimensions = samples(), torch.eye(D)
    images = normalize(torch.eye(C, D) + 2 * dimensions[D - 1], dim=1)
    zero_shot = normalize(torch.eye(C, D) + 2 * dimensions[D - 2], dim=1).T
    of = replace(of, zero_shot=zero_shot, images=images[of.class_ids])
    head = joined(Ncm(), of, fraction)
    assert head.scores(images).argmax(dim=1).tolist() == list(range(C))


@pytest.mark.parametrize("method", ["gda", "ncm", "gda-control"])
def test_a_closed_form_head_is_chosen_measured_and_used(
    retrieved_project: Project, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("react_pipeline.extensions.methods.head.LEAST_CALIBRATED", 1)
    checkpoint = customize(retrieved_project, "shapes", method)
    counts, is_gda = checkpoint.counts, method.startswith("gda")
    grid = (Gda if is_gda else Ncm).grid
    assert [*map(float, counts["interpolation_scores"])] == [*grid]
    assert counts["held_out_pairs"] > 0 and counts["steps"] == 1
    head = ClassHead.read(checkpoint.file("head.safetensors"))
    assert bool(head.bias.dim()) == is_gda
    assert counts["trainable_parameters"] == head.vectors.numel() + head.bias.count_nonzero()

    def used() -> Classifier:
        return Classifier.load("shapes", method, config=retrieved_project.path)

    # The held-out pairs give a temperature, until labelled images give another.
    record = json.loads(checkpoint.file("head.json").read_text())
    assert used().temperature == record["temperature"] > 0
    assert all(map(torch.equal, used().head, head))
    result = evaluate(retrieved_project, "shapes", method)
    assert used().temperature == result.counts["temperature"]


@pytest.mark.parametrize("method", ["gda", "linear-head"])
def test_without_held_out_pairs_a_second_fit_calibrates(
    retrieved_project: Project, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("react_pipeline.extensions.methods.head.LEAST_CALIBRATED", 2)
    fields = {"held_out_fraction": 0.0, "interpolation": 1.0, "steps": 4}
    edit_domain(retrieved_project, "shapes", customization=fields)
    checkpoint = customize(retrieved_project, "shapes", method)
    assert checkpoint.counts["held_out_pairs"] == 0
    about = json.loads(checkpoint.file("head.json").read_text())
    tenth = len(range(0, checkpoint.counts["pairs"], 10))
    assert about["temperature"] > 0 and about["calibrated_on"].startswith(f"{tenth} ")
    classifier = Classifier.load("shapes", method, config=retrieved_project.path)
    assert classifier.temperature == about["temperature"]
