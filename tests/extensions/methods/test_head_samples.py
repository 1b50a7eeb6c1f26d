"""What a linear head is trained on: labelled vectors of pairs and prompts, each class as likely as
any other.
"""

from __future__ import annotations

import torch
from support.pairs import DrawnPairs

from react_pipeline.clip import Clip
from react_pipeline.extensions.methods import label_pairs
from react_pipeline.extensions.methods.head_steps import ClassSamples
from react_pipeline.settings import DomainConfig

DOMAIN = DomainConfig(
    slug="shapes",
    classes=({"name": "circle", "synonyms": ["disc"]}, "square", "triangle"),
    templates=("a {} shape", "a drawing of a {}"),
)


def test_every_class_is_drawn_equally_often() -> None:
    class_ids = torch.tensor([3] * 97 + [0] * 900 + [2] * 3)
    vectors = torch.arange(1000.0)[:, None]
    samples = ClassSamples(vectors, class_ids, 5)
    assert samples.counts.tolist() == [900, 0, 3, 97, 0]
    drawn, drawn_ids = samples.draw(9_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn_ids, minlength=5)
    assert counts[[1, 4]].tolist() == [0, 0]
    # A share of a third of 9,000 draws has a deviation of 45.
    assert (counts[[0, 2, 3]] - 3_000).abs().max() < 5 * 45
    assert torch.equal(drawn_ids, class_ids[drawn.long().squeeze(1)])
    assert len(torch.unique(drawn)) > 900


def test_pairs_have_their_class_and_prompts_are_samples(clip: Clip) -> None:
    pairs = DrawnPairs([("circle", "red")] * 3, classes=["square", "gone", "circle"])
    labels = label_pairs(clip, pairs, pairs.vectors(clip), DOMAIN)
    assert labels.class_ids.tolist() == [1, -1, 0]
    assert labels.prompt_ids.tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    torch.testing.assert_close(labels.prompts[2], clip.encode_texts(["a disc shape"])[0])


def test_random_pairs_get_the_class_nearest_to_their_caption(clip: Clip) -> None:
    captions = ["a triangle shape", "a disc shape", "a drawing of a square", "something else"]
    pairs = DrawnPairs([("circle", "red")] * 4, captions=captions, classes=[""] * 4)
    labels = label_pairs(clip, pairs, pairs.vectors(clip), DOMAIN)
    nearest = (labels.prompts @ clip.encode_texts(captions)[3]).argmax()
    assert labels.class_ids.tolist() == [2, 0, 1, labels.prompt_ids[nearest]]
