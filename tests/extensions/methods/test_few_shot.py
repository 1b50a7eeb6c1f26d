"""Shots: who learns from them, with which weight, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.drawings import SHAPES, SHOTS, draw, encode, evaluation_image, write_shot, write_shots
from support.upkeep import edit_domain
from torch.nn.functional import normalize

from react_pipeline.evaluation import EvalResult, compare, evaluate
from react_pipeline.extensions.methods import HeadSamples
from react_pipeline.extensions.methods.few_shot import FewShotNcm, joined
from react_pipeline.lineage import fresh, run
from react_pipeline.project import Project
from react_pipeline.promotion import Verdict, decide
from react_pipeline.settings import TrainingConfig
from react_pipeline.store import InputError, StaleArtifact
from react_pipeline.training import customize
from react_pipeline.use.chosen_model import load_chosen

D, C = 6, 3


@pytest.fixture
def project(retrieved_project: Project) -> Project:
    """With two shots of each class but the last."""
    write_shots(retrieved_project.path.parent, SHAPES[:-1])
    edit_domain(retrieved_project, "shapes", shots=SHOTS)
    return retrieved_project


def test_a_shot_weighs_as_much_as_eight_pairs_and_no_more() -> None:
    torch.manual_seed(0)
    images, shots = (normalize(torch.randn(count, D)) for count in (12, 4))
    class_ids = torch.tensor([0] * 9 + [1] * 3)  # and none of class 2
    zero_shot = normalize(torch.randn(D, C), dim=0)
    of = HeadSamples(zero_shot, images, images, class_ids, zero_shot.T, torch.arange(C))
    both = joined(of, shots, torch.tensor([0, 0, 0, 2]))
    assert torch.bincount(both.class_ids).tolist() == [9 + 24, 3, 8]
    log: Any = None
    head, _ = FewShotNcm().fit(both, TrainingConfig(), log)
    mean = of.images[:9].sum(dim=0) + 8 * shots[:3].sum(dim=0)
    torch.testing.assert_close(head.vectors[:, 0], normalize(mean, dim=0))
    torch.testing.assert_close(head.vectors[:, 2], shots[3])
    torch.testing.assert_close(both.captions[-1], of.zero_shot[:, 2])


@pytest.mark.parametrize("method", ["few-shot-gda", "few-shot-ncm"])
def test_a_few_shot_head_is_trained_measured_and_used(project: Project, method: str) -> None:
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
