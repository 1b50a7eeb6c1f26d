"""Training a linear head on labelled vectors of pairs and prompts, each class as likely as any
other, and joining it with the zero-shot head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.drawings import COLOURS
from support.pairs import DrawnPairs
from support.training import OwnCustomization
from torch import Tensor
from torch.nn.functional import normalize

from react_pipeline.clip import Clip, zero_shot_head
from react_pipeline.extensions.methods import label_pairs
from react_pipeline.extensions.methods.head import class_accuracy, train_head
from react_pipeline.extensions.methods.head_steps import ClassSamples
from react_pipeline.extensions.methods.linear_head import LinearHead
from react_pipeline.settings import DomainConfig, TrainingConfig
from react_pipeline.store import RetrievalError, Scratch, TrainingError
from react_pipeline.training import split_held_out

TEMPLATES = ("a {} drawing",)
DOMAIN = DomainConfig(slug="colours", classes=COLOURS, templates=TEMPLATES)
TRAINING: dict[str, Any] = {
    **{"learning_rate": 0.01, "steps": 60, "warmup_steps": 5, "batch_size": 32},
    **{"held_out_fraction": 0.25, "workers": 0},
}
SHAPES = ("circle", "square", "triangle")
DRAWINGS = [(shape, colour) for _ in range(4) for shape in SHAPES for colour in COLOURS]
Train = Callable[..., tuple[dict[str, Any], Tensor]]


def drawn(without: str = "", **options: Any) -> DrawnPairs:
    """48 pairs, 12 a colour."""
    drawings = [drawing for drawing in DRAWINGS if drawing[1] != without]
    return DrawnPairs(drawings, **{"classes": [colour for _, colour in drawings], **options})


@pytest.fixture
def train(clip: Clip, tmp_path: Path) -> Train:
    """Returns counts and class vectors of a training on pairs that no store holds."""

    def run(pairs: Any, vectors: Any = None, near: float = 1.01, **fields: Any) -> Any:
        training = TrainingConfig(**{**TRAINING, **fields})
        retrieval = SimpleNamespace(near_duplicate_similarity=near)
        project = SimpleNamespace(retrieval=lambda _slug: retrieval)
        own: Any = OwnCustomization(
            pairs, DOMAIN, training, Scratch(tmp_path), staging=tmp_path, project=project
        )
        counts = train_head(LinearHead(), own, clip, vectors or pairs.vectors(clip))
        return counts, load_file(tmp_path / "head.safetensors")["head"]

    return run


def zero_shot(clip: Clip) -> Tensor:
    return zero_shot_head(clip, COLOURS, TEMPLATES)


def test_a_head_learns_what_the_zero_shot_head_does_not_know(clip: Clip, train: Train) -> None:
    coloured = drawn()
    counts, head = train(coloured, interpolation=1.0)
    assert counts["final_loss"] < counts["first_loss"]
    before, after = (counts[f"held_out_{one}"]["class_accuracy"] for one in ("before", "after"))
    # The text tower is random, so colours are guessed; its image tower tells them apart.
    assert before < 0.5 and after > 0.7
    assert counts["step0_max_difference"] < 1e-6
    positions = split_held_out(coloured, 0.25, 0)[1]
    images = coloured.vectors(clip).images[positions]
    truth = torch.tensor([COLOURS.index(coloured.labels[position]) for position in positions])
    assert counts["held_out_pairs"] == len(positions) > 0
    assert before == class_accuracy(images @ zero_shot(clip), truth)
    assert after == class_accuracy(images @ head, truth)


def test_held_out_pairs_are_not_trained_on(train: Train) -> None:
    coloured = drawn()
    texts = list(coloured.texts)
    for position in split_held_out(coloured, 0.25, 0)[1].tolist():
        texts[position] = "something else altogether"
    ours, theirs = (train(pairs)[1] for pairs in (coloured, drawn(captions=texts)))
    assert torch.equal(ours, theirs)


def test_the_head_is_joined_with_the_zero_shot_head(clip: Clip, train: Train) -> None:
    start, middle, end = (train(drawn(), interpolation=one)[1] for one in (0.0, 0.5, 1.0))
    assert torch.equal(start, zero_shot(clip)) and not torch.allclose(start, end, atol=0.05)
    torch.testing.assert_close(end.norm(dim=0), torch.ones(4))
    torch.testing.assert_close(middle, normalize(start + end, dim=0))


def test_near_copies_of_trained_images_are_not_held_out(clip: Clip, train: Train) -> None:
    coloured = drawn()
    vectors = coloured.vectors(clip)
    trained_on, held_out = split_held_out(coloured, 0.25, 0)
    images = normalize(torch.randn_like(vectors.images))
    images[held_out[:3]] = images[trained_on[:3]]
    for copies, near, dropped in (images, 0.98, 3), (images, 1.01, 0), (images[:1], 0.98, 0):
        of = replace(vectors, images=copies.expand(len(coloured), -1))
        counts, _ = train(coloured, of, near, steps=2)
        assert counts["held_out_near_copies"] == dropped
        assert counts["held_out_pairs"] == len(held_out) - dropped


def test_a_class_without_pairs_keeps_its_zero_shot_column(clip: Clip, train: Train) -> None:
    counts, head = train(drawn("green"))
    assert counts["classes_without_pairs"] == ["green"]
    same = map(torch.equal, head.T, zero_shot(clip).T)
    assert list(same) == [colour == "green" for colour in COLOURS]


def test_a_tie_goes_to_the_base_where_a_class_has_no_pairs(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("react_pipeline.extensions.methods.head.class_accuracy", lambda *_: 0.5)
    for without, fraction in ("green", 0.0), ("", 1.0):
        counts, _ = train(drawn(without), interpolation="held-out", steps=2)
        assert counts["interpolation"] == fraction


def test_pairs_of_unknown_classes_are_left_out_and_counted(train: Train) -> None:
    classes = ["mauve" if number % 6 == 0 else one for number, (_, one) in enumerate(DRAWINGS)]
    counts, _ = train(drawn(classes=classes), steps=2)
    assert (counts["pairs"], counts["unlabelled_pairs"]) == (48, 8)
    with pytest.raises(RetrievalError, match="retrieved_set"):
        train(drawn(classes=["mauve"] * 48), steps=2)


def test_a_base_whose_features_are_not_finite_trains_nothing(
    clip: Clip, train: Train, tmp_path: Path
) -> None:
    with torch.no_grad():
        clip.model.visual.proj.fill_(float("nan"))
    with pytest.raises(TrainingError, match="nan at step 0"):
        train(drawn())
    assert not (tmp_path / "head.safetensors").exists()


NAMED = DomainConfig(
    slug="shapes",
    classes=({"name": "circle", "synonyms": ["disc"]}, "square", "triangle"),
    templates=("a {} shape", "a drawing of a {}"),
)


def test_every_class_is_drawn_equally_often() -> None:
    class_ids = torch.tensor([3] * 97 + [0] * 900 + [2] * 3)
    samples = ClassSamples(torch.arange(1000.0)[:, None], class_ids, 5)
    drawn, drawn_ids = samples.draw(9_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn_ids, minlength=5)
    # A share of a third of 9,000 draws has a deviation of 45.
    assert (counts - torch.tensor([3_000, 0, 3_000, 3_000, 0])).abs().max() < 5 * 45
    assert torch.equal(drawn_ids, class_ids[drawn.long().squeeze(1)])
    assert len(torch.unique(drawn)) > 900


def test_pairs_have_their_class_and_prompts_are_samples(clip: Clip) -> None:
    pairs = DrawnPairs([("circle", "red")] * 3, classes=["square", "gone", "circle"])
    labels = label_pairs(clip, pairs, pairs.vectors(clip), NAMED)
    assert labels.class_ids.tolist() == [1, -1, 0]
    assert labels.prompt_ids.tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    torch.testing.assert_close(labels.prompts[2], clip.encode_texts(["a disc shape"])[0])


def test_random_pairs_get_the_class_nearest_to_their_caption(clip: Clip) -> None:
    captions = ["a triangle shape", "a disc shape", "a drawing of a square", "something else"]
    pairs = DrawnPairs([("circle", "red")] * 4, captions=captions, classes=[""] * 4)
    labels = label_pairs(clip, pairs, pairs.vectors(clip), NAMED)
    nearest = (labels.prompts @ clip.encode_texts(captions)[3]).argmax()
    assert labels.class_ids.tolist() == [2, 0, 1, labels.prompt_ids[nearest]]
