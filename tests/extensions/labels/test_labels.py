"""Labels: predictions as folders of classes, and labels that come back as an evaluation set."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from support.drawings import COLOURS, SHAPES, draw, encode
from support.upkeep import edit_domain
from typer.testing import CliRunner

from react_pipeline.commands.cli import app
from react_pipeline.extensions.labels.commands import folder_names
from react_pipeline.extensions.predict import Options, predict_pictures
from react_pipeline.labelled import publish_evaluation_set
from react_pipeline.project import Project
from react_pipeline.use import Classifier


@pytest.fixture
def predictions(retrieved_project: Project, tmp_path: Path) -> Path:
    """A finished run; two pictures of one name in two folders."""
    photos = tmp_path / "photos"
    for number, (shape, colour) in enumerate(
        (shape, colour) for shape in SHAPES[:2] for colour in COLOURS[:2]
    ):
        path = photos / str(number) / ("same.png" if number < 2 else f"a&b +50%25#{number}.png")
        path.parent.mkdir(parents=True)
        path.write_bytes(encode(draw(shape, colour, 7)))
    classifier = Classifier.load(
        "shapes", "base", config=retrieved_project.path, device="cpu", precision="fp32"
    )
    predict_pictures(classifier, str(photos), tmp_path / "out", Options(workers=0))
    return tmp_path / "out"


def run(*arguments: object) -> str:
    """Return the error of a command, or "" if it succeeds."""
    result = CliRunner().invoke(app, ["labels", *map(str, arguments)])
    return "" if result.exit_code == 0 else str(result.exception)


def test_corrected_folders_become_an_evaluation_set(
    retrieved_project: Project, predictions: Path, tmp_path: Path
) -> None:
    from torchvision.datasets import ImageFolder

    folder, table = tmp_path / "corrected", tmp_path / "labels.csv"
    assert not run("export", predictions, "--to", folder)
    read = ImageFolder(str(folder))
    wanted = pq.read_table(predictions / "predictions.parquet")["predicted"].to_pylist()
    assert sorted(read.classes[target] for _, target in read.samples) == sorted(wanted)
    assert "already exists" in run("export", predictions, "--to", folder)
    turn = "import", "shapes", folder, "--to", table, "--config", retrieved_project.path
    one = next(folder.iterdir())
    one.rename(folder / "unicorn")
    assert "unicorn" in run(*turn) and not list(tmp_path.glob("*labels.csv*"))
    (folder / "unicorn").rename(one)
    assert not run(*turn)
    corrected = {"name": "corrected", "kind": "manifest", "path": str(table)}
    edit_domain(retrieved_project, "shapes", evaluation=corrected)
    artifact = publish_evaluation_set(Project.load(retrieved_project.path), "shapes")
    assert artifact.counts["images"] == 4


def test_a_picture_that_is_gone_is_named(predictions: Path, tmp_path: Path) -> None:
    sorted((tmp_path / "photos").rglob("*.png"))[0].unlink()
    assert "no picture file" in run("export", predictions, "--to", tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_a_run_without_classes_exports_nothing(predictions: Path, tmp_path: Path) -> None:
    path = predictions / "predictions.parquet"
    pd.read_parquet(path).assign(predicted="unknown").to_parquet(path)
    assert "no picture has a class" in run("export", predictions, "--to", tmp_path / "to")


def test_the_files_are_found_by_the_source_of_the_run(
    retrieved_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    picture = encode(draw(SHAPES[0], COLOURS[0], 7))
    for name in (b"caf\xe9.png", b"plain.png"):
        (photos / os.fsdecode(name)).write_bytes(picture)
    (tmp_path / "table.csv").write_text("file\nphotos/plain.png\n")
    classifier = Classifier.load("shapes", "base", config=retrieved_project.path, device="cpu")
    monkeypatch.chdir(tmp_path)
    for source, output in (("photos", "out"), ("table.csv", "listed")):
        predict_pictures(classifier, source, Path(output), Options(workers=0, column="file"))
    assert not run("export", "out", "--to", "to")
    assert [path.read_bytes() for path in Path("to").rglob("*.png")] == [picture, picture]
    assert not run("export", "listed", "--to", "to-listed")
    monkeypatch.chdir(photos)
    assert "run where it is" in run("export", tmp_path / "out", "--to", tmp_path / "other")


def test_names_of_classes_make_harmless_folders() -> None:
    names = folder_names(["../../etc", "a/b", "A-B", "..", "a-b", "x" * 300])
    assert len({name.casefold() for name in names.values()}) == 6
    for name in names.values():
        assert "/" not in name and not name.startswith(".") and len(name) <= 90
