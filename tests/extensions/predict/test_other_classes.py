"""Classes that are given at prediction."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from support.drawings import COLOURS, SHAPES, draw, encode
from typer.testing import CliRunner

from react_pipeline.commands.cli import app
from react_pipeline.extensions.predict.heads import with_classes
from react_pipeline.project import Project
from react_pipeline.store import InputError
from react_pipeline.use import Classifier


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    path = tmp_path / "classes.txt"
    path.write_text("wheel\n\n box \nstar\n")
    return path


def test_a_run_has_the_classes_of_the_file(retrieved_project: Project, classes: Path) -> None:
    photos = classes.parent / "photos"
    photos.mkdir()
    (photos / "one.png").write_bytes(encode(draw(SHAPES[0], COLOURS[0], 7)))
    output = classes.parent / "out"
    command = ["predict", "shapes", str(photos), "--output", str(output), "--model", "base"]
    command += ["--config", str(retrieved_project.path), "--workers", "0"]
    done = CliRunner().invoke(app, [*command, "--classes", str(classes)])
    assert done.exit_code == 0, done.output
    record = json.loads((output / "run.json").read_text())
    assert record["classes"] == ["wheel", "box", "star"]
    assert "not measured" in record["model"]
    assert record["temperature"] is None
    assert set(pd.read_parquet(output / "predictions.parquet")["predicted"]) <= {*record["classes"]}
    assert CliRunner().invoke(app, [*command, "--classes", str(classes), "--by-shard"]).exit_code


def test_the_same_classes_score_as_those_of_the_domain(
    retrieved_project: Project, classes: Path
) -> None:
    classifier = Classifier.load("shapes", "base", config=retrieved_project.path)
    classes.write_text("\n".join(classifier.classes))
    templates = retrieved_project.domain("shapes").templates
    other = with_classes(classifier, classes, templates)
    picture = encode(draw(SHAPES[0], COLOURS[0], 7))
    (mine,), (own,) = other.predict(picture), classifier.predict(picture)
    assert mine.classes == own.classes
    assert mine.scores == pytest.approx(own.scores, abs=1e-4)
    assert other.origin.fingerprint != classifier.origin.fingerprint


@pytest.mark.parametrize("text", ["", "a\na\n", "\x00\n", "=1+1\n"])
def test_what_is_no_list_of_classes_is_one_error(
    retrieved_project: Project, classes: Path, text: str
) -> None:
    classes.write_text(text)
    classifier = Classifier.load("shapes", "base", config=retrieved_project.path)
    with pytest.raises(InputError, match=r"classes\.txt"):
        with_classes(classifier, classes, "simple")
