from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from react_pipeline.extensions.elevater.experiments import Experiment
from react_pipeline.extensions.elevater.submission import write_prediction, write_submission

SHAPES = {"dtd": (4, 3), "voc-2007-classification": (2, 2)}
"""Test images and classes."""


def write(
    directory: Path, name: str = "dtd", n_shot: int = 5, seed: int = 0, num_trainable: int = 10
) -> Path:
    about = {
        "model_name": "react",
        "dataset_name": name,
        "num_trainable_params": num_trainable,
        "num_params": 120,
        "num_visual_params": 60,
        "num_backbone_params": 100,
        "n_shot": n_shot,
        "rnd_seeds": [seed],
    }
    return write_prediction(about, scores(name, seed), directory)


def scores(name: str = "dtd", seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).random(SHAPES[name]).astype(np.float32)
    return drawn / drawn.sum(axis=1, keepdims=True)


def write_all(directory: Path, n_shot: int = 5, seeds: tuple[int, ...] = (0, 1, 2)) -> Path:
    for name in ("dtd", "voc-2007-classification"):
        for seed in seeds:
            write(directory, name, n_shot, seed)
    path = directory / "all_predictions.zip"
    write_submission(directory, path)
    return path


def document(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("all_predictions.json"))


def test_files_are_named_by_seed_and_dataset(tmp_path: Path) -> None:
    assert write(tmp_path, seed=2).name == "seed2_dtd.json"
    assert write(tmp_path, n_shot=-1).name == "seed0_dtd.json"
    assert write(tmp_path, n_shot=0).name == "dtd.json"
    assert Experiment("linear-probe", 5).folder == "linear_probe_5"
    assert Experiment("fine-tune", -1).folder == "finetuning_full"


def test_a_file_holds_the_nine_keys_and_six_decimals(tmp_path: Path) -> None:
    written = json.loads(write(tmp_path).read_text())
    assert list(written) == [
        *("model_name", "dataset_name", "num_trainable_params", "num_params", "num_visual_params"),
        *("num_backbone_params", "n_shot", "rnd_seeds", "predictions"),
    ]
    assert written["rnd_seeds"] == [0]
    assert written["num_trainable_params"] == 10
    values = [value for row in written["predictions"][0] for value in row]
    assert values == [round(float(value), 6) for value in scores().ravel()]


def test_seeds_are_joined_in_order_and_parameters_averaged(tmp_path: Path) -> None:
    write(tmp_path, seed=1, num_trainable=13)
    write(tmp_path, seed=0, num_trainable=10)
    write_submission(tmp_path, tmp_path / "mine.zip")
    (merged,) = document(tmp_path / "mine.zip")["data"]
    assert (merged["rnd_seeds"], merged["num_trainable_params"]) == ([0, 1], 11.5)
    np.testing.assert_allclose(merged["predictions"][1], scores(seed=1), atol=5e-7)


def test_the_zip_holds_one_deflated_member_with_every_dataset(tmp_path: Path) -> None:
    path = write_all(tmp_path)
    with zipfile.ZipFile(path) as archive:
        (member,) = archive.infolist()
    assert (member.filename, member.compress_type) == (
        "all_predictions.json",
        zipfile.ZIP_DEFLATED,
    )
    entries = document(path)["data"]
    assert [entry["dataset_name"] for entry in entries] == ["dtd", "voc-2007-classification"]
    assert [np.shape(entry["predictions"]) for entry in entries] == [(3, 4, 3), (3, 2, 2)]
    assert entries[0]["rnd_seeds"] == [0, 1, 2]


def test_equal_files_give_an_equal_zip(tmp_path: Path) -> None:
    first, second = (write_all(tmp_path / name).read_bytes() for name in ("first", "second"))
    assert first == second


def test_a_submission_that_cannot_be_finished_leaves_no_zip(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "seed1_dtd.json").write_text("{")
    with pytest.raises(ValueError, match="line 1"):
        write_submission(tmp_path, tmp_path / "mine.zip")
    assert not list(tmp_path.glob("*.zip*"))


def test_what_the_leaderboard_would_miss_is_named(tmp_path: Path) -> None:
    for seed in (0, 1):
        write(tmp_path, seed=seed)
    problems = write_submission(tmp_path, tmp_path / "mine.zip")
    assert "dtd: 2 of 3 seeds" in problems
    assert "mnist: no predictions" in problems and len(problems) == 20
