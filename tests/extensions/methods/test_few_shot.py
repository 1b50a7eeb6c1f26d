"""Shots: who learns from them, with which weight, and which are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.drawings import SHAPES, draw, encode, evaluation_image
from support.upkeep import edit_domain
from torch.nn.functional import normalize

from react_pipeline.evaluation.comparison import compare
from react_pipeline.evaluation.domain_results import EvalResult, evaluate
from react_pipeline.extensions.hub.export import export
from react_pipeline.extensions.methods.few_shot import FewShotNcm, joined
from react_pipeline.extensions.methods.head import HeadSamples
from react_pipeline.lineage import fresh, run
from react_pipeline.project.project import Project
from react_pipeline.promotion.decision import decide
from react_pipeline.promotion.verdicts import Verdict
from react_pipeline.settings.training import TrainingConfig
from react_pipeline.store.errors import InputError, StaleArtifact
from react_pipeline.training.customization import customize
from react_pipeline.use.chosen_model import load_chosen

FEW_SHOT = ("few-shot-gda", "few-shot-ncm")
D, C = 6, 3


@pytest.fixture
def project(retrieved_project: Project) -> Project:
    """With two shots of each class but the last, in a folder beside the domain file."""
    for name in SHAPES[:-1]:
        for number in range(2):
            write_shot(retrieved_project, name, number, encode(draw(name, "green", 9000 + number)))
    return with_shots(retrieved_project)


def write_shot(project: Project, name: str, number: int, data: bytes) -> Path:
    path = project.config.domains.parent / "shots" / name / f"{number}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def with_shots(project: Project, slug: str = "shapes", **retrieval: Any) -> Project:
    path = project.config.domains / f"{slug}.yaml"
    shots = {"name": "my shots", "kind": "folder", "path": "../shots"}
    domain = {**yaml.safe_load(path.read_text()), "shots": shots, "retrieval": retrieval}
    path.write_text(yaml.safe_dump(domain))
    return project


def samples() -> HeadSamples:
    """Nine pairs of class 0, three of class 1, none of class 2."""
    torch.manual_seed(0)
    images = normalize(torch.randn(12, D), dim=1)
    class_ids = torch.tensor([0] * 9 + [1] * 3)
    zero_shot = normalize(torch.randn(D, C), dim=0)
    return HeadSamples(zero_shot, images, images, class_ids, zero_shot.T, torch.arange(C))


def test_a_shot_weighs_as_much_as_eight_pairs_and_no_more() -> None:
    of = samples()
    shots = normalize(torch.randn(4, D), dim=1)
    both = joined(of, shots, torch.tensor([0, 0, 0, 2]))
    assert torch.bincount(both.class_ids).tolist() == [9 + 24, 3, 8]
    log: Any = None
    head, _ = FewShotNcm().fit(both, TrainingConfig(), log)
    mean = of.images[:9].sum(dim=0) + 8 * shots[:3].sum(dim=0)
    torch.testing.assert_close(head.vectors[:, 0], normalize(mean, dim=0))
    torch.testing.assert_close(head.vectors[:, 2], shots[3])
    torch.testing.assert_close(both.captions[-1], of.zero_shot[:, 2])


@pytest.mark.parametrize("method", FEW_SHOT)
def test_a_few_shot_head_is_trained_measured_and_used(project: Project, method: str) -> None:
    run(project, "few_shot_set", "shapes")
    checkpoints = [customize(project, "shapes", name) for name in (method, f"{method}-control")]
    shots = project.store.current("few_shot_set", "shapes")
    # The control learns from the same shots.
    assert {one.parents["few_shot_set"] for one in checkpoints} == {shots.fingerprint}
    pairs = [("retrieved_set" in one.parents, "control_set" in one.parents) for one in checkpoints]
    assert pairs == [(True, False), (False, True)]
    result = evaluate(project, "shapes", method)
    assert EvalResult.read(result).protocol == "few-shot"
    evaluate(project, "shapes", "base")
    assert set(compare(project, "shapes").counts["top1"]) == {"base", method}
    assert Verdict.read(decide(project, "shapes")).decision != "incomparable"
    classifier = load_chosen("shapes", method, project.path, None, None)
    assert classifier.classes == tuple(project.domain("shapes").class_names)


def test_only_what_is_trained_on_shots_depends_on_them(project: Project) -> None:
    for stage in ("evaluation_set", "retrieved_set", "control_set"):
        fresh(project, stage, "shapes")  # made before there were shots
    run(project, "few_shot_set", "shapes")
    edit_domain(project, "shapes", customization={"interpolation": 1.0})
    few, plain = (customize(project, "shapes", name) for name in ("few-shot-ncm", "ncm"))
    write_shot(project, "circle", 7, encode(draw("circle", "red", 9007)))
    run(project, "few_shot_set", "shapes")
    assert fresh(project, "customized_checkpoint", "shapes/ncm").fingerprint == plain.fingerprint
    with pytest.raises(StaleArtifact, match="few_shot_set"):
        fresh(project, "customized_checkpoint", "shapes/few-shot-ncm")
    again = customize(project, "shapes", "few-shot-ncm")
    assert again.fingerprint != few.fingerprint
    assert again.file("head.safetensors").read_bytes() != few.file("head.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("extension", "near", "word"),
    [("png", 1.01, "same file"), ("bmp", 0.999, "cosine 1.000")],
    ids=["bytes", "picture"],
)
def test_a_shot_that_shows_an_evaluation_image_is_refused(
    project: Project, extension: str, near: float, word: str
) -> None:
    with_shots(project, near_duplicate_similarity=near)
    path = write_shot(project, "square", 3, encode(evaluation_image("circle", 1), extension))
    with pytest.raises(InputError, match=word) as error:
        run(project, "few_shot_set", "shapes")
    assert str(path) in str(error.value) and "shots" in str(error.value)
    assert not project.store.has("few_shot_set", "shapes")


def test_shots_that_are_missing_are_named(project: Project) -> None:
    with pytest.raises(InputError, match=r"colours\.yaml: `shots` is missing"):
        run(project, "few_shot_set", "colours")
    (project.config.domains.parent / "shots").rename(project.config.domains / "elsewhere")
    with pytest.raises(InputError, match="no folder"):
        run(project, "few_shot_set", "shapes")


def test_a_card_says_that_labelled_pictures_were_used(project: Project, tmp_path: Path) -> None:
    run(project, "few_shot_set", "shapes")
    texts = []
    for method in ("few-shot-ncm", "ncm"):
        customize(project, "shapes", method)
        evaluate(project, "shapes", method)
        texts.append(
            (export(project, "shapes", method, tmp_path / method) / "README.md").read_text()
        )
    assert "6 labelled pictures" in texts[0] and "without any training" not in texts[0]
    assert "from class names alone" in texts[1] and "without any training" in texts[1]
