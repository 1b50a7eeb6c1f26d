"""Decontamination: the images of an evaluation set beside those of a corpus."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import write_checkpoint
from numpy.typing import NDArray
from support.retrieval import NOTHING

from react_pipeline.clip.model import load
from react_pipeline.project.project import Project
from react_pipeline.retrieval import decontamination
from react_pipeline.retrieval.decontamination import (
    VECTORS,
    KeptOut,
    read_kept_out,
)


def test_the_nearest_evaluation_image_is_exact_in_any_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(0)
    vectors, images = (random.normal(size=(count, 8)).astype(np.float32) for count in (50, 30))
    monkeypatch.setattr("react_pipeline.retrieval.decontamination.BLOCK_VALUES", 4 * 30)
    nearest = KeptOut(frozenset(), images, 0.9).similarity(vectors)
    np.testing.assert_allclose(nearest, (vectors @ images.T).max(axis=1), rtol=1e-5)
    assert KeptOut(frozenset(), images, 0.9).similarity(vectors[:0]).shape == (0,)
    assert np.isnan(NOTHING.similarity(vectors)).all()


def test_images_of_other_domains_are_encoded_once(
    retrieved_project: Project,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = retrieved_project
    own = project.store.current("evaluation_set", "shapes")
    number = {
        slug: project.store.current("evaluation_set", slug).counts["images"]
        for slug in ("shapes", "colours")
    }
    encode = Mock(wraps=decontamination.encode_images)
    monkeypatch.setattr(decontamination, "encode_images", encode)

    def vectors(checkpoint: Path) -> tuple[NDArray[np.float32], list[int]]:
        encode.reset_mock()
        found = read_kept_out(project, "shapes", own, load(checkpoint), "all").vectors
        return found, [len(call.args[2]) for call in encode.call_args_list]

    first, encoded = vectors(tiny_checkpoint)
    assert encoded == list(number.values())
    again, encoded = vectors(tiny_checkpoint)
    np.testing.assert_array_equal(again, first)
    assert encoded == [number["shapes"]]
    write_checkpoint(tmp_path, seed=1)
    other, encoded = vectors(tmp_path)
    assert encoded == list(number.values()) and not np.allclose(other, first)


def test_vectors_that_were_not_used_for_long_are_pruned(
    retrieved_project: Project, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    project = retrieved_project
    own = project.store.current("evaluation_set", "shapes")
    folder = project.config.store / VECTORS
    write_checkpoint(tmp_path, seed=1)
    for checkpoint in (tiny_checkpoint, tmp_path):
        read_kept_out(project, "shapes", own, load(checkpoint), "all")
    for file in folder.glob("*.npy"):
        os.utime(file, (0, 0))
    read_kept_out(project, "shapes", own, load(tiny_checkpoint), "all")  # is used again
    (old,) = (file for file in folder.glob("*.npy") if not file.stat().st_mtime)
    assert project.store.prune(dry_run=True) == project.store.prune() == [str(old)]
    assert len([*folder.glob("*.npy")]) == 1 and not old.exists()
