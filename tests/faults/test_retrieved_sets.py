"""FAULTS 19, 20: images of evaluation are removed by hash and by near-duplicate embedding, counted:
none is left. An empty retrieved set is refused, and starving classes keep a training from starting.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.drawings import encode, evaluation_image
from support.upkeep import change_pipeline, edit_domain

from react_pipeline.corpus import CollectedPairs
from react_pipeline.labelled import publish_evaluation_set
from react_pipeline.lineage import fresh
from react_pipeline.project import Project
from react_pipeline.retrieval import decontamination, draw_control, leaked_images, retrieve_pairs
from react_pipeline.retrieval.decontamination import KeptOut, Leaks
from react_pipeline.store import Artifact, RetrievalError, StaleArtifact
from react_pipeline.training import customize


def configure(
    project: Project, near: float = 1.01, evaluation: Path | None = None, decontaminate: str = "own"
) -> None:
    # Everything is wanted, so that what is missing was removed.
    retrieval = {"k_per_prompt": 200, "max_per_class": 200, "near_duplicate_similarity": near}
    edit_domain(project, "shapes", retrieval={**retrieval, "decontaminate": decontaminate})
    if evaluation is not None:
        measure_on(project, "shapes", evaluation)
    publish_evaluation_set(project, "shapes")


def measure_on(project: Project, slug: str, folder: Path) -> None:
    evaluation = {"name": "measured", "kind": "folder", "path": str(folder)}
    edit_domain(project, slug, evaluation=evaluation)


def folder_of(place: Path, name: str, number: int, extension: str = "png") -> Path:
    """An evaluation set of one image; equal numbers are equal pictures."""
    path = place / name / f"{number}.{extension}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(evaluation_image("circle", number), extension))
    return place


DIGEST = hashlib.sha256(encode(evaluation_image("circle", 0))).hexdigest()


def both_sets(project: Project) -> tuple[Artifact, Artifact]:
    return retrieve_pairs(project, "shapes"), draw_control(project, "shapes")


def hashes(artifact: Artifact) -> set[str]:
    return set(pd.read_parquet(artifact.file("pairs.parquet"))["image_sha256"])


@pytest.fixture
def reencoded(tmp_path: Path) -> Path:
    """The evaluation image that the corpus holds, in another encoding: other bytes, the same
    picture.
    """
    return folder_of(tmp_path / "again", "circle", 0, "bmp")


@pytest.mark.parametrize(("near", "reason"), [(1.01, "hash"), (0.999, "near")])
def test_an_evaluation_image_is_removed_from_both_sets(
    indexed_project: Project, reencoded: Path, near: float, reason: str
) -> None:
    same = folder_of(reencoded.parent / "same", "circle", 0)
    configure(indexed_project, near, same if reason == "hash" else reencoded)
    sets = both_sets(indexed_project)
    dropped = sets[0].counts["dropped"]
    for one in ("hash", "near"):
        assert dropped[f"evaluation_image_{one}"] == (one == reason)
    for artifact in sets:
        assert DIGEST not in hashes(artifact)
        assert leaked_images(indexed_project, artifact.stage, "shapes") == Leaks(0, 0, 1)


@pytest.mark.parametrize("smaller", [False, True])
def test_the_check_sees_an_image_that_was_let_in(
    indexed_project: Project, reencoded: Path, monkeypatch: pytest.MonkeyPatch, smaller: bool
) -> None:
    configure(indexed_project, evaluation=reencoded)
    both_sets(indexed_project)
    configure(indexed_project, evaluation=folder_of(reencoded.parent / "same", "circle", 0))
    if smaller:  # by the download; the digest of the file on the web is recorded
        monkeypatch.setattr(decontamination, "CollectedPairs", Smaller)
    for stage in ("retrieved_set", "control_set"):
        assert leaked_images(indexed_project, stage, "shapes") == Leaks(1, 0, 1)


class Smaller(CollectedPairs):
    """Pairs whose images were made smaller."""

    def __iter__(self) -> Iterator[Any]:
        for pair in super().__iter__():
            yield SimpleNamespace(row=pair.row, image=b"smaller")


def test_the_check_compares_images_itself(
    indexed_project: Project, reencoded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(indexed_project, near=0.999, evaluation=reencoded)
    with monkeypatch.context() as patched:
        # A retrieval that is blind to near duplicates and says that nothing is near.
        patched.setattr(
            KeptOut, "similarity", lambda _, vectors: np.zeros(len(vectors), np.float32)
        )
        artifact = retrieve_pairs(indexed_project, "shapes")
    assert (pd.read_parquet(artifact.file("pairs.parquet"))["evaluation_similarity"] == 0).all()
    assert leaked_images(indexed_project, "retrieved_set", "shapes") == Leaks(0, 1, 1)


def test_images_of_other_domains_are_excluded_on_request(
    indexed_project: Project, tmp_path: Path
) -> None:
    measure_on(indexed_project, "colours", folder_of(tmp_path / "theirs", "red", 0))
    ours = folder_of(tmp_path / "ours", "circle", 1)
    configure(indexed_project, evaluation=ours)
    publish_evaluation_set(indexed_project, "colours")
    assert DIGEST in hashes(retrieve_pairs(indexed_project, "shapes"))
    assert leaked_images(indexed_project, "retrieved_set", "shapes") == Leaks(0, 0, 1)
    configure(indexed_project, evaluation=ours, decontaminate="all")
    retrieved = retrieve_pairs(indexed_project, "shapes")
    assert DIGEST not in hashes(retrieved)
    assert retrieved.counts["evaluation_sets"] == {"shapes": 1, "colours": 1}
    assert DIGEST not in hashes(draw_control(indexed_project, "shapes"))
    assert leaked_images(indexed_project, "retrieved_set", "shapes") == Leaks(0, 0, 2)
    assert fresh(indexed_project, "retrieved_set", "shapes").fingerprint == retrieved.fingerprint
    # A set that changes, or comes later, makes the pairs stale.
    folder_of(tmp_path / "theirs", "red", 2)
    publish_evaluation_set(indexed_project, "colours")
    with pytest.raises(StaleArtifact, match="evaluation_sets"):
        fresh(indexed_project, "retrieved_set", "shapes")


def test_images_of_dense_sets_are_kept_out_where_all_are_to_be(
    indexed_project: Project, tmp_path: Path
) -> None:
    folder_of(tmp_path, "images", 0)
    (tmp_path / "labels").mkdir()
    Image.new("L", evaluation_image("circle", 0).size).save(tmp_path / "labels" / "0.png")
    (tmp_path / "names.txt").write_text("circle\n")
    ours = folder_of(tmp_path / "ours", "circle", 1)
    configure(indexed_project, evaluation=ours, decontaminate="all")
    assert DIGEST in hashes(retrieve_pairs(indexed_project, "shapes"))
    own = {"name": "masks", "images": "images", "labels": "labels", "names": "names.txt"}
    project = change_pipeline(indexed_project, dense={"root": str(tmp_path), "own": [own]})
    assert leaked_images(project, "retrieved_set", "shapes") == Leaks(1, 0, 2)
    # A set that comes later makes the pairs stale.
    with pytest.raises(StaleArtifact, match="test_sets"):
        fresh(project, "retrieved_set", "shapes")
    retrieved = retrieve_pairs(project, "shapes")
    assert DIGEST not in hashes(retrieved)
    assert retrieved.counts["evaluation_sets"]["dense/masks"] == 1
    assert DIGEST not in hashes(draw_control(project, "shapes"))
    assert leaked_images(project, "retrieved_set", "shapes") == Leaks(0, 0, 2)


def test_an_empty_retrieved_set_is_refused_with_its_classes(
    indexed_project: Project,
) -> None:
    wanted = {"min_similarity": {"t2t": 1.1, "t2i": 1.1}}
    edit_domain(indexed_project, "shapes", retrieval=wanted)
    publish_evaluation_set(indexed_project, "shapes")
    with pytest.raises(RetrievalError) as raised:
        retrieve_pairs(indexed_project, "shapes")
    reported = str(raised.value)
    names = ("below_similarity", "min_similarity", "circle", "square", "triangle", "cross")
    assert all(name in reported for name in names)
    assert indexed_project.store.keys("retrieved_set") == []


def test_starving_classes_are_named_and_too_many_stop_training(
    indexed_project: Project,
) -> None:
    wanted = {"modes": ["t2t"], "k_per_prompt": 3, "min_per_class": 1_000}
    edit_domain(indexed_project, "shapes", retrieval={**wanted, "max_starving_fraction": 0.5})
    publish_evaluation_set(indexed_project, "shapes")
    artifact = retrieve_pairs(indexed_project, "shapes")
    assert artifact.counts["starving"] == ["circle", "square", "triangle", "cross"]
    assert artifact.counts["starving_fraction"] == 1.0
    with pytest.raises(RetrievalError, match="circle"):
        customize(indexed_project, "shapes", "gated-image")
    assert indexed_project.store.keys("customized_checkpoint") == []
