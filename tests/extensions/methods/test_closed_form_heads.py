"""Heads without training: `ncm` and `gda`, each formula once more in plain tensor algebra; and with
shots: who learns from them, with which weight, and which are refused.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.drawings import SHAPES, SHOTS, draw, encode, evaluation_image, write_shot, write_shots
from support.upkeep import edit_domain
from torch.nn.functional import normalize

from react_pipeline import Classifier
from react_pipeline.clip import ClassHead
from react_pipeline.evaluation import EvalResult, compare, evaluate
from react_pipeline.extensions.hub.export import export
from react_pipeline.extensions.methods import HeadMethod, HeadSamples, few_shot
from react_pipeline.extensions.methods.gda import Gda
from react_pipeline.extensions.methods.ncm import Ncm
from react_pipeline.lineage import fresh, run
from react_pipeline.project import Project
from react_pipeline.promotion import Verdict, decide
from react_pipeline.settings import TrainingConfig
from react_pipeline.store import InputError, StaleArtifact
from react_pipeline.training import customize
from react_pipeline.use.chosen_model import load_chosen

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


@pytest.fixture
def project(retrieved_project: Project) -> Project:
    """With two shots of each class but the last."""
    write_shots(retrieved_project.path.parent, SHAPES[:-1])
    edit_domain(retrieved_project, "shapes", shots=SHOTS)
    return retrieved_project


def test_a_shot_weighs_as_much_as_eight_pairs_and_no_more() -> None:
    torch.manual_seed(0)
    images, shots = (normalize(torch.randn(count, D)) for count in (12, 4))
    class_ids = torch.tensor([0] * 9 + [1] * 2 + [3])  # and none of class 2
    zero_shot = normalize(torch.randn(D, C), dim=0)
    of = HeadSamples(zero_shot, images, images, class_ids, zero_shot.T, torch.arange(C))
    both = few_shot.joined(of, shots, torch.tensor([0, 0, 0, 2]))
    assert torch.bincount(both.class_ids).tolist() == [9 + 24, 2, 8, 1]
    log: Any = None
    head, _ = few_shot.FewShotNcm().fit(both, TrainingConfig(), log)
    mean = of.images[:9].sum(dim=0) + 8 * shots[:3].sum(dim=0)
    torch.testing.assert_close(head.vectors[:, 0], normalize(mean, dim=0))
    torch.testing.assert_close(head.vectors[:, 2], shots[3])
    torch.testing.assert_close(both.captions[-1], of.zero_shot[:, 2])


@pytest.mark.parametrize("method", ["few-shot-gda", "few-shot-ncm"])
def test_a_few_shot_head_is_trained_measured_and_used(
    project: Project, method: str, tmp_path: Path
) -> None:
    shots = run(project, "few_shot_set", "shapes").fingerprint
    for own, name in (method, "retrieved_set"), (f"{method}-control", "control_set"):
        parents = customize(project, "shapes", own).parents
        assert parents.keys() == {"base_checkpoint", "few_shot_set", name}
        assert parents["few_shot_set"] == shots  # the control learns from the same
    for name in (method, "base"):
        result = EvalResult.read(evaluate(project, "shapes", name))
        assert result.protocol == ("zero-shot" if name == "base" else "few-shot")
    assert set(compare(project, "shapes").counts["top1"]) == {"base", method}
    assert Verdict.read(decide(project, "shapes")).decision != "incomparable"
    classifier = load_chosen("shapes", method, project.path, None, None)
    assert classifier.classes == tuple(project.domain("shapes").class_names)
    card = (export(project, "shapes", method, tmp_path / "exported") / "README.md").read_text()
    assert "6 labelled pictures" in card and "without any training" not in card


def test_only_what_is_trained_on_shots_depends_on_them(project: Project) -> None:
    for stage in ("evaluation_set", "retrieved_set", "control_set"):
        fresh(project, stage, "shapes")  # made before there were shots
    run(project, "few_shot_set", "shapes")
    edit_domain(project, "shapes", customization={"interpolation": 1.0})
    few, plain = (customize(project, "shapes", name) for name in ("few-shot-ncm", "ncm"))
    write_shot(project.path.parent, "circle", 7, encode(draw("circle", "red", 9007)))
    run(project, "few_shot_set", "shapes")
    assert fresh(project, "customized_checkpoint", "shapes/ncm").fingerprint == plain.fingerprint
    with pytest.raises(StaleArtifact, match="few_shot_set"):
        fresh(project, "customized_checkpoint", "shapes/few-shot-ncm")
    again = customize(project, "shapes", "few-shot-ncm")
    assert again.file("head.safetensors").read_bytes() != few.file("head.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("extension", "near", "word"), [("png", 1.01, "same file"), ("bmp", 0.999, "cosine 1.000")]
)
def test_a_shot_that_shows_an_evaluation_image_is_refused(
    project: Project, extension: str, near: float, word: str
) -> None:
    edit_domain(project, "shapes", retrieval={"near_duplicate_similarity": near})
    data = encode(evaluation_image("circle", 1), extension)
    path = write_shot(project.path.parent, "square", 3, data)
    with pytest.raises(InputError, match=word) as error:
        run(project, "few_shot_set", "shapes")
    assert str(path) in str(error.value) and "shots" in str(error.value)
    assert not project.store.has("few_shot_set", "shapes")


def test_shots_that_are_missing_are_named(project: Project) -> None:
    with pytest.raises(InputError, match=r"colours\.yaml: `shots` is missing"):
        run(project, "few_shot_set", "colours")
    (project.path.parent / "shots").rename(project.config.domains / "elsewhere")
    with pytest.raises(InputError, match="no folder"):
        run(project, "few_shot_set", "shapes")
