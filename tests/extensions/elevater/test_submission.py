from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from react_pipeline.extensions.elevater.datasets import dataset
from react_pipeline.extensions.elevater.experiments import Experiment
from react_pipeline.extensions.elevater.submission import (
    Prediction,
    check_submission,
    write_prediction,
    write_submission,
)

EXPECTED = {
    name: replace(dataset(name), sizes={"test": images}, num_classes=classes)
    for name, images, classes in (
        ("dtd", 4, 3),
        ("voc-2007-classification", 2, 2),
        ("imagenet-1k", 5, 10),
    )
}


def prediction(
    name: str = "dtd", n_shot: int = 5, seeds: tuple[int, ...] = (0,), **changes: Any
) -> Prediction:
    shape = EXPECTED[name]
    scores = (
        np.random.default_rng(seeds)
        .random((len(seeds), shape.sizes["test"], shape.num_classes))
        .astype(np.float32)
    )
    return replace(
        Prediction(
            model_name="react",
            dataset_name=name,
            num_trainable_params=10,
            num_params=120,
            num_visual_params=60,
            num_backbone_params=100,
            n_shot=n_shot,
            rnd_seeds=seeds,
            predictions=scores / scores.sum(axis=2, keepdims=True),
        ),
        **changes,
    )


def write_all(directory: Path, n_shot: int = 5, seeds: tuple[int, ...] = (0, 1, 2)) -> Path:
    for name in ("dtd", "voc-2007-classification"):
        for seed in seeds:
            write_prediction(prediction(name, n_shot, (seed,)), directory)
    return write_submission(directory)


def document(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("all_predictions.json"))


def test_files_are_named_by_seed_and_dataset(tmp_path: Path) -> None:
    assert write_prediction(prediction(seeds=(2,)), tmp_path).name == "seed2_dtd.json"
    assert write_prediction(prediction(n_shot=-1), tmp_path).name == "seed0_dtd.json"
    assert write_prediction(prediction(n_shot=0), tmp_path).name == "dtd.json"
    assert Experiment("linear-probe", 5).folder == "linear_probe_5"
    assert Experiment("fine-tune", -1).folder == "finetuning_full"


def test_a_file_holds_the_nine_keys_and_six_decimals(tmp_path: Path) -> None:
    given = prediction()
    written = json.loads(write_prediction(given, tmp_path).read_text())
    assert list(written) == [
        *("model_name", "dataset_name", "num_trainable_params", "num_params", "num_visual_params"),
        *("num_backbone_params", "n_shot", "rnd_seeds", "predictions"),
    ]
    assert written["rnd_seeds"] == [0]
    assert written["num_trainable_params"] == 10
    values = [value for row in written["predictions"][0] for value in row]
    assert values == [round(float(value), 6) for value in given.predictions.ravel()]


def test_seeds_are_joined_in_order_and_parameters_averaged(tmp_path: Path) -> None:
    write_prediction(prediction(seeds=(1,), num_trainable_params=13), tmp_path)
    write_prediction(prediction(seeds=(0,), num_trainable_params=10), tmp_path)
    (merged,) = document(write_submission(tmp_path))["data"]
    assert (merged["rnd_seeds"], merged["num_trainable_params"]) == ([0, 1], 11.5)
    np.testing.assert_allclose(
        merged["predictions"][1], prediction(seeds=(1,)).predictions[0], atol=5e-7
    )


def test_the_zip_holds_one_deflated_member_with_every_dataset(tmp_path: Path) -> None:
    path = write_all(tmp_path)
    with zipfile.ZipFile(path) as archive:
        (member,) = archive.infolist()
    assert (path.name, member.filename, member.compress_type) == (
        "all_predictions.zip",
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
    write_prediction(prediction(seeds=(0,)), tmp_path)
    (tmp_path / "seed1_dtd.json").write_text("{")
    with pytest.raises(ValueError, match="line 1"):
        write_submission(tmp_path)
    assert not list(tmp_path.glob("*.zip*"))


@pytest.mark.parametrize(("n_shot", "seeds"), [(5, (0, 1, 2)), (-1, (0,)), (0, (0,))])
def test_a_sound_submission_has_no_problem(
    tmp_path: Path, n_shot: int, seeds: tuple[int, ...]
) -> None:
    assert check_submission(write_all(tmp_path, n_shot, seeds), EXPECTED) == []


def rewritten(path: Path, change: Callable[[Any], Any]) -> Path:
    changed = document(path)
    change(changed["data"])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("all_predictions.json", json.dumps(changed))
    return path


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        (
            lambda data: data.pop(),
            "data",
            "1 of 2 datasets are present; missing: voc-2007-classification",
        ),
        (lambda data: data.append(data[0]), "data.dtd", "occurs 2 times"),
        (lambda data: data[0].pop("num_params"), "data.dtd.num_params", "required"),
        (lambda data: data[0].update(extra=1), "data.dtd.extra", "not permitted"),
        (
            lambda data: data[0].update(num_params="many"),
            "data.dtd.num_params",
            "'many'.*number",
        ),
        (lambda data: data[0].update(model_name=3), "data.dtd.model_name", "valid string"),
        (lambda data: data[0].update(n_shot=2.5), "data.dtd.n_shot", "2.5"),
        (
            lambda data: data[0].update(n_shot=20),
            "data.*.n_shot",
            "differs between datasets: 20, 5",
        ),
        (
            lambda data: data[0].update(rnd_seeds=[0]),
            "data.dtd.rnd_seeds",
            "1 seeds; n_shot 5 needs 3",
        ),
        (
            lambda data: data[0].update(rnd_seeds=[0, 0, 1]),
            "data.dtd.rnd_seeds",
            "names a seed twice",
        ),
        (lambda data: data[0].update(rnd_seeds="0"), "data.dtd.rnd_seeds", "valid list"),
        (lambda data: data[0]["predictions"].pop(), "data.dtd.predictions", r"shape \(2, 4, 3\)"),
        (
            lambda data: data[0]["predictions"][0].pop(),
            "data.dtd.predictions",
            "not an array of numbers",
        ),
        (
            lambda data: data[0]["predictions"][1][2].__setitem__(0, 1.5),
            "data.dtd.predictions",
            r"at \[1, 2, 0\]",
        ),
        (
            lambda data: data[0]["predictions"][1][2].__setitem__(0, float("nan")),
            "data.dtd.predictions",
            "outside",
        ),
        (
            lambda data: data[0]["predictions"][1].__setitem__(2, [0.5, 0.5, 0.01]),
            "data.dtd.predictions",
            r"1 rows do not sum to 1, the first at \[1, 2\]",
        ),
        (
            lambda data: data[0].update(dataset_name="mine"),
            "data.mine.dataset_name",
            "not a dataset of the leaderboard",
        ),
        (lambda data: data.append(7), "data[2]", "not an object"),
    ],
)
def test_each_fault_is_reported_with_its_field(
    tmp_path: Path, change: Callable[[Any], Any], field: str, message: str
) -> None:
    path = rewritten(write_all(tmp_path), change)
    problems = check_submission(path, EXPECTED)
    assert [
        problem
        for problem in problems
        if problem.field == field and re.search(message, problem.message)
    ], problems
    assert all(problem.file == path for problem in problems)


def test_multilabel_rows_need_not_sum_to_one(tmp_path: Path) -> None:
    def change(data: Any) -> None:
        data[1]["predictions"][0][0] = [0.9, 0.8]
        data[0]["predictions"][0][0] = [0.5, 0.5, 0.0009]

    assert check_submission(rewritten(write_all(tmp_path), change), EXPECTED) == []


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    def change(data: Any) -> None:
        data[0]["rnd_seeds"] = [0]
        data[1]["predictions"][0][0][0] = -1
        del data[0]["num_params"]

    assert len(check_submission(rewritten(write_all(tmp_path), change), EXPECTED)) == 3


def test_what_is_no_submission_is_one_problem(tmp_path: Path) -> None:
    path = tmp_path / "all_predictions.zip"
    assert "cannot be read" in check_submission(path, EXPECTED)[0].message
    path.write_bytes(b"no zip")
    assert "cannot be read" in check_submission(path, EXPECTED)[0].message
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.json", "{}")
    assert "must hold exactly all_predictions.json" in check_submission(path, EXPECTED)[0].message
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("all_predictions.json", "[]")
    assert "one object a dataset" in check_submission(path, EXPECTED)[0].message


@pytest.mark.parametrize("fault", ["nested", "damaged", "encrypted", "compression", "cut"])
def test_a_zip_that_cannot_be_read_is_one_problem(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "all_predictions.zip"
    text = (
        "[" * 100_000
        if fault == "nested"
        else json.dumps({"data": [[number] for number in range(999)]})
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("all_predictions.json", text)
    data = bytearray(path.read_bytes())
    listed = data.rindex(b"PK\x01\x02")
    body = 30 + len("all_predictions.json")
    if fault == "damaged":
        data[body : body + 20] = b"\xff" * 20
    elif fault == "encrypted":
        data[6] |= 1
        data[listed + 8] |= 1
    elif fault == "compression":
        data[8] = data[listed + 10] = 99
    elif fault == "cut":
        data = data[:-30]
    path.write_bytes(data)
    (problem,) = check_submission(path, EXPECTED)
    assert "cannot be read as a zip of JSON" in problem.message


def test_the_folder_of_a_submission_is_made(tmp_path: Path) -> None:
    write_prediction(prediction(), tmp_path / "predictions")
    assert write_submission(
        tmp_path / "predictions", tmp_path / "new" / "folder" / "mine.zip"
    ).is_file()
