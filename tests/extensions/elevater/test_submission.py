from __future__ import annotations

import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from react_pipeline.extensions.elevater.submission import write_prediction, write_submission
from react_pipeline.store import InputError

SHAPES = {"voc-2007-classification": (2, 2), "dtd": (4, 3)}
"""Test images and classes."""
FOLDER = Path("predictions") / "linear_probe_5"


FIELDS = [
    *("model_name", "dataset_name", "num_trainable_params", "num_params", "num_visual_params"),
    *("num_backbone_params", "n_shot", "rnd_seeds", "predictions"),
]
"""In the benchmark's order."""


def write(directory: Path, name: str = "dtd", n_shot: int = 5, seed: int = 0) -> None:
    about = {**dict.fromkeys(FIELDS[:-1], 1), "dataset_name": name}
    about |= {"n_shot": n_shot, "rnd_seeds": [seed]}
    write_prediction(about, scores(name, seed), directory / FOLDER)


def scores(name: str = "dtd", seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).random(SHAPES[name]).astype(np.float32)
    return drawn / drawn.sum(axis=1, keepdims=True)


def submission(directory: Path) -> Path:
    results: Any = SimpleNamespace(path=directory)
    path = directory / "mine" / "all_predictions.zip"
    assert write_submission(results, FOLDER.name, path)
    return path


def test_the_zip_holds_one_deflated_member_with_every_seed(tmp_path: Path) -> None:
    for seed in (1, 2, 0):
        for name in SHAPES:
            write(tmp_path, name, seed=seed)
    path = submission(tmp_path)
    with zipfile.ZipFile(path) as archive:
        (member,) = archive.infolist()
        entries = json.loads(archive.read("all_predictions.json"))["data"]
    assert member.compress_type == zipfile.ZIP_DEFLATED
    assert [entry["dataset_name"] for entry in entries] == ["dtd", "voc-2007-classification"]
    assert list(entries[0]) == FIELDS
    assert entries[0]["rnd_seeds"] == [0, 1, 2]
    wanted = [scores(seed=seed).astype(float).round(6).tolist() for seed in range(3)]
    assert entries[0]["predictions"] == wanted
    assert submission(tmp_path).read_bytes() == path.read_bytes()


def test_a_submission_that_cannot_be_finished_leaves_no_zip(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no predictions of 'linear_probe_5'; there are none"):
        submission(tmp_path)
    write(tmp_path)
    (tmp_path / FOLDER / "seed1_dtd.json").write_text("{")
    with pytest.raises(ValueError, match="line 1"):
        submission(tmp_path)
    assert not list(tmp_path.rglob("*.zip*"))
