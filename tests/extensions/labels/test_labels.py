"""Labels: predictions as folders of classes, and labels that come back as an evaluation set."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from support.drawings import COLOURS, SHAPES, draw, encode
from typer.testing import CliRunner

from react_pipeline.commands.cli import app
from react_pipeline.extensions.labels.export import export_predictions, folder_names
from react_pipeline.extensions.predict import Options, predict_pictures
from react_pipeline.labelled import publish_evaluation_set
from react_pipeline.project import Project
from react_pipeline.store import InputError
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


def predicted(predictions: Path) -> list[str]:
    labels: list[str] = pq.read_table(predictions / "predictions.parquet")["predicted"].to_pylist()
    return labels


def test_torchvision_opens_folders_of_classes(predictions: Path, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    done = export_predictions(predictions, tmp_path / "to")
    assert (done.written, done.left_out) == (4, 0)
    read = ImageFolder(str(tmp_path / "to"))
    assert sorted(read.classes[target] for _, target in read.samples) == sorted(
        predicted(predictions)
    )


def test_imported_labels_become_an_evaluation_set(
    retrieved_project: Project, predictions: Path, tmp_path: Path
) -> None:
    export_predictions(predictions, tmp_path / "corrected")
    table = tmp_path / "labels.csv"
    command = ["labels", "import", "shapes", str(tmp_path / "corrected")]
    command += ["--to", str(table), "--config", str(retrieved_project.path)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    path = retrieved_project.config.domains / "shapes.yaml"
    domain = yaml.safe_load(path.read_text())
    domain["evaluation"] = {"name": "corrected", "kind": "manifest", "path": str(table)}
    path.write_text(yaml.safe_dump(domain))
    artifact = publish_evaluation_set(Project.load(retrieved_project.path), "shapes")
    assert artifact.counts["images"] == 4


def test_unknown_classes_are_named_and_nothing_is_written(
    retrieved_project: Project, predictions: Path, tmp_path: Path
) -> None:
    export_predictions(predictions, tmp_path / "corrected")
    folder = next(path for path in (tmp_path / "corrected").iterdir())
    folder.rename(folder.with_name("unicorn"))
    table = tmp_path / "labels.csv"
    command = ["labels", "import", "shapes", str(tmp_path / "corrected")]
    command += ["--to", str(table), "--config", str(retrieved_project.path)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code != 0
    assert "unicorn" in str(result.exception)
    assert not list(tmp_path.glob("*labels.csv*"))


def test_an_export_replaces_nothing(predictions: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    with pytest.raises(InputError, match="already exists"):
        export_predictions(predictions, tmp_path / "to")
    assert not list((tmp_path / "to").iterdir())


def test_a_picture_that_is_gone_is_named(predictions: Path, tmp_path: Path) -> None:
    gone = sorted((tmp_path / "photos").rglob("*.png"))[0]
    gone.unlink()
    with pytest.raises(InputError, match="no picture file"):
        export_predictions(predictions, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_names_of_classes_make_harmless_folders() -> None:
    names = folder_names(["../../etc", "a/b", "A-B", "..", "a-b", "x" * 300])
    assert len({name.casefold() for name in names.values()}) == 6
    assert not [
        name for name in names.values() if "/" in name or name.startswith(".") or len(name) > 90
    ]
