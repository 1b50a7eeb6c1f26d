"""The photographs: which captions name a class, and controls without them; domains that are
held out of the pairs.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pandas as pd
import pytest
import torch
from support.drawings import draw, encode, write_shard

from benchmarks import photographs
from benchmarks.controls import beside
from react_pipeline.clip import ClassHead
from react_pipeline.corpus import CollectedPairs
from react_pipeline.evaluation import EvalResult, evaluate
from react_pipeline.extensions.methods.few_shot import FewShotNcm
from react_pipeline.project import Project
from react_pipeline.training import customize


def test_a_nameless_control_names_no_class(
    retrieved_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photographs, "naming_classes", lambda _: "circle|disc")
    other = beside(retrieved_project, "nameless", "shapes", photographs.nameless)
    pairs = CollectedPairs(other.store.current("control_set", "shapes"))
    captions = [pair.caption for pair in pairs]
    assert captions and not any("circle" in one or "disc" in one for one in captions)


def test_a_head_with_shots_is_the_published_one_and_its_shots(
    retrieved_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = retrieved_project
    monkeypatch.setattr(photographs, "SLUG", "shapes")
    published = customize(project, "shapes", "ncm")
    head = ClassHead.read(published.file("head.safetensors"))
    images, class_ids = photographs.labelled_vectors(project, "shapes")
    top1 = (head.scores(images).argmax(dim=1) == class_ids).double().mean()
    result = EvalResult.read(evaluate(project, "shapes", "ncm"))
    assert result.top1 == pytest.approx(float(top1))

    def fitted(count: int) -> torch.Tensor:
        shots = images[:count], class_ids[:count]
        return photographs.fit(project, "few-shot-ncm", *shots, seed=0).vectors

    torch.testing.assert_close(fitted(0), head.vectors)
    # The held-out pairs of random towers choose the zero-shot head.
    monkeypatch.setattr(FewShotNcm, "defaults", {"interpolation": 1.0})
    assert (fitted(4) - fitted(0)).abs().max() > 1e-3


def test_photographs_of_a_held_out_domain_leave_the_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class needs five captions of others, the drawings' among them."""
    photos, own = tmp_path / "photos", "tuxpaint"
    captions = [("A frog.", own), ("An owl.", own), *[("two frogs", "web")] * 3, ("owl", "web")]
    pairs = pd.DataFrame(captions, columns=["caption", "source"])
    pairs["key"] = [f"p{row}" for row in pairs.index]
    picture = encode(draw("circle", "red", 1), "jpg")
    write_shard(
        photos / "corpus" / "0.tar",
        {key: {"jpg": picture, "txt": b"text"} for key in pairs["key"]},
    )
    pairs.to_csv(photos / "corpus.csv")
    drawn = pd.DataFrame({"caption": ["frog", "green frog", "owl"]})
    monkeypatch.setattr(photographs, "captions", lambda: drawn)
    monkeypatch.setattr(photographs, "_tar_of_drawings", lambda path: path)
    project, _ = photographs.hold_out(photos, tmp_path / "work", 1, "stamps")
    assert project.domain("stamps").class_names == ["frog"]
    labelled = tmp_path / "work" / "stamps" / "images"
    assert [path.name for path in labelled.rglob("*.jpg")] == ["p0.jpg"]
    with tarfile.open(tmp_path / "work" / "stamps" / "pairs.tar") as rest:
        assert {Path(name).stem for name in rest.getnames()} == {"p2", "p3", "p4", "p5"}
