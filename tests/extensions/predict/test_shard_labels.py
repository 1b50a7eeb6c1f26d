"""Labels of many shards: one file for each, the same labels as `predict` gives, and a run that is
killed.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.drawings import pair, write_shard
from typer.testing import CliRunner

from react_pipeline.commands.cli import app
from react_pipeline.extensions.predict import Options, predict
from react_pipeline.extensions.predict.predict import (
    Arguments,
    predict_pictures,
    predict_shards,
    shared_arguments,
)
from react_pipeline.project import Project
from react_pipeline.store import InputError
from react_pipeline.use import Classifier

NOW = Options(workers=0)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of which one has a picture that is none, one no picture, and one is no tar."""
    folder = tmp_path / "shards"
    folder.mkdir()
    samples = {
        f"{shape}{n}": pair(shape, "red", n) for n in range(3) for shape in ("circle", "cross")
    }
    write_shard(folder / "0.tar", {**samples, "bad": {"png": b"none"}})
    write_shard(folder / "1.tar", {"text": {"txt": b"a circle"}})
    write_shard(folder / "2.tar", {"one": pair("square", "blue", 5)})
    (folder / "3.tar").write_bytes(b"no tar" * 400)
    return folder


@pytest.fixture
def model(retrieved_project: Project) -> tuple[Classifier, Arguments]:
    arguments = shared_arguments("shapes", "base", retrieved_project.path)
    return Classifier.load("shapes", "base", config=retrieved_project.path), arguments


def labels_of(output: Path) -> list[dict[str, Any]]:
    return [
        row for path in sorted(output.glob("labels/*")) for row in pq.read_table(path).to_pylist()
    ]


def test_each_shard_has_the_labels_that_predict_gives(
    model: tuple[Classifier, Arguments], shards: Path, tmp_path: Path
) -> None:
    done = predict_shards(*model, str(shards / "*.tar"), tmp_path / "out", NOW)
    assert (done.used, sum(done.skipped.values())) == (7, 3)
    assert {"no_image": 1, "unreadable_shard": 1}.items() <= done.skipped.items()
    (shards / "3.tar").unlink()
    predict_pictures(model[0], str(shards / "*.tar"), tmp_path / "one", NOW)
    expected = pq.read_table(tmp_path / "one" / "predictions.parquet").to_pylist()
    labels = labels_of(tmp_path / "out")
    assert [row["path"] for row in labels] == [row["path"] for row in expected]
    for row, wanted in zip(labels, expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-5)  # other batches, other roundings
    files = sorted(path.name for path in (tmp_path / "out").rglob("*"))
    assert files == [*(f"00000{n}.parquet" for n in range(4)), "labels", "ledger.csv", "run.json"]
    with (tmp_path / "out" / "ledger.csv").open(encoding="utf-8") as file:
        reasons = [row["reason"] for row in csv.DictReader(file)]
    assert reasons == ["not_an_image", "no_image", "unreadable_shard"]


def test_a_killed_run_labels_the_shards_that_are_left(
    model: tuple[Classifier, Arguments],
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    find = predict.pictures_of_shard

    def once(shard: Path) -> Any:
        asked.append(shard.name)
        if asked == ["0.tar", "1.tar"]:
            raise KeyboardInterrupt
        return find(shard)

    monkeypatch.setattr(predict, "pictures_of_shard", once)
    call = (*model, str(shards / "*.tar"), tmp_path / "out", NOW)
    with pytest.raises(KeyboardInterrupt):
        predict_shards(*call)
    done = predict_shards(*call)
    assert asked == ["0.tar", "1.tar", "1.tar", "2.tar", "3.tar"]
    assert (done.used, len(labels_of(tmp_path / "out"))) == (7, 7)
    assert predict_shards(*call) == done and len(asked) == 5
    with pytest.raises(InputError, match="top_k"):
        predict_shards(*call[:-1], Options(workers=0, top_k=1))


def test_the_command_labels_shards_and_refuses_pictures(
    retrieved_project: Project, shards: Path, tmp_path: Path
) -> None:
    options = ["--config", str(retrieved_project.path), "--model", "base", "--workers", "0"]
    options += ["--by-shard", "--output", str(tmp_path / "out")]
    (shards / "a.png").write_bytes(b"")
    for files, code in (("*.tar", 0), ("*", 1)):
        call = ["predict", "shapes", str(shards / files), *options]
        result = CliRunner().invoke(app, call)
        assert result.exit_code == code, result.output
        assert len(labels_of(tmp_path / "out")) == 7


def test_only_the_model_of_the_run_labels(
    model: tuple[Classifier, Arguments], shards: Path, tmp_path: Path
) -> None:
    classifier, arguments = model
    other = replace(classifier, origin=replace(classifier.origin, fingerprint="0" * 16))
    with pytest.raises(InputError, match="--model"):
        predict_shards(other, arguments, str(shards / "*.tar"), tmp_path / "out", NOW)


def test_shards_are_not_judged_together(
    model: tuple[Classifier, Arguments], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="leave out --by-shard"):
        predict_shards(*model, "0.tar", tmp_path, Options(transductive=True))
