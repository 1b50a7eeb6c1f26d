"""Labels: predictions that other tools read, and labels that come back as an evaluation set."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import ExifTags, Image
from support.drawings import COLOURS, SHAPES, draw, encode
from typer.testing import CliRunner

from react_pipeline.commands.cli import app
from react_pipeline.extensions.labels import readers
from react_pipeline.extensions.labels.export import export_predictions
from react_pipeline.extensions.labels.readers import READERS, read_labels
from react_pipeline.extensions.labels.writers import LabelledPicture, Predictions, write_coco
from react_pipeline.extensions.predict import Options, predict_pictures
from react_pipeline.labelled import publish_evaluation_set
from react_pipeline.project import Project
from react_pipeline.store import InputError
from react_pipeline.use import Classifier

FORMS = sorted(READERS)


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


@pytest.mark.parametrize("form", FORMS)
def test_what_is_exported_comes_back(predictions: Path, tmp_path: Path, form: str) -> None:
    done = export_predictions(predictions, form, tmp_path / "to")
    assert (done.written, done.left_out) == (4, 0)
    source = tmp_path / "to"
    if form == "label-studio":
        tasks = json.loads((source / "tasks.json").read_text())
        # A person accepts every prediction, as the tool's export writes it.
        for task in tasks:
            task["annotations"] = [{"result": task.pop("predictions")[0]["result"]}]
        source /= "export.json"
        source.write_text(json.dumps(tasks))
    labels, contradicted = read_labels(form, source)
    assert sorted(labels.values()) == sorted(predicted(predictions))
    assert contradicted == []


def test_coco_opens_a_coco_export(predictions: Path, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    export_predictions(predictions, "coco", tmp_path / "to")
    read = coco.COCO(tmp_path / "to" / "annotations.json")
    assert len(read.getImgIds()) == 4
    names = {entry["id"]: entry["name"] for entry in read.loadCats(read.getCatIds())}
    boxes = read.loadAnns(read.getAnnIds())
    assert [names[box["category_id"]] for box in boxes] == predicted(predictions)


def test_coco_boxes_fit_pictures_that_exif_turns(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (40, 20)).save(tmp_path / "upright.jpg")
    pictures = [
        LabelledPicture(tmp_path / name, "a", 1.0, 1.0) for name in ("turned.jpg", "upright.jpg")
    ]
    write_coco(Predictions("to", "model", ["a"], pictures), tmp_path / "to")
    written = json.loads((tmp_path / "to" / "annotations.json").read_text())
    assert [(one["width"], one["height"]) for one in written["images"]] == [(20, 40), (40, 20)]
    assert written["annotations"][0]["bbox"] == [0, 0, 20, 40]


@pytest.mark.parametrize(("form", "inside"), [("imagefolder", "."), ("yolo", "train")])
def test_torchvision_opens_folders_of_classes(
    predictions: Path, tmp_path: Path, form: str, inside: str
) -> None:
    from torchvision.datasets import ImageFolder

    export_predictions(predictions, form, tmp_path / "to")
    read = ImageFolder(str(tmp_path / "to" / inside))
    assert sorted(read.classes[target] for _, target in read.samples) == sorted(
        predicted(predictions)
    )


def test_label_studio_finds_the_pictures(predictions: Path, tmp_path: Path) -> None:
    export_predictions(predictions, "label-studio", tmp_path / "to")
    for task in json.loads((tmp_path / "to" / "tasks.json").read_text()):
        place = parse_qs(urlsplit(task["data"]["image"]).query)["d"][0]
        assert (tmp_path / place).is_file()


def test_label_studio_accepts_its_tasks(predictions: Path, tmp_path: Path) -> None:
    interface = pytest.importorskip("label_studio_sdk.label_interface")
    export_predictions(predictions, "label-studio", tmp_path / "to")
    labels = interface.LabelInterface((tmp_path / "to" / "interface.xml").read_text())
    for task in json.loads((tmp_path / "to" / "tasks.json").read_text()):
        (prediction,) = task.pop("predictions")
        assert labels.validate_task(task)
        assert labels.validate_prediction(prediction, return_errors=True) == []


def test_fiftyone_opens_its_export(predictions: Path, tmp_path: Path) -> None:
    importers = pytest.importorskip("fiftyone.utils.data.importers")
    export_predictions(predictions, "fiftyone", tmp_path / "to")
    # The importer that `Dataset.from_dir` uses; a Dataset needs a running MongoDB.
    read = importers.FiftyOneImageClassificationDatasetImporter(dataset_dir=str(tmp_path / "to"))
    read.setup()
    assert sorted(label.label for _, _, label in read) == sorted(predicted(predictions))


def test_imported_labels_become_an_evaluation_set(
    retrieved_project: Project, predictions: Path, tmp_path: Path
) -> None:
    export_predictions(predictions, "imagefolder", tmp_path / "corrected")
    table = tmp_path / "labels.csv"
    command = ["labels", "import", "shapes", str(tmp_path / "corrected"), "--format", "imagefolder"]
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
    export_predictions(predictions, "imagefolder", tmp_path / "corrected")
    folder = next(path for path in (tmp_path / "corrected").iterdir())
    folder.rename(folder.with_name("unicorn"))
    table = tmp_path / "labels.csv"
    command = ["labels", "import", "shapes", str(tmp_path / "corrected"), "--format", "imagefolder"]
    command += ["--to", str(table), "--config", str(retrieved_project.path)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code != 0
    assert "no class 'unicorn';" in str(result.exception)
    assert not list(tmp_path.glob("*labels.csv*"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("content", ["", "{}", "[]", '{"annotations": 3}', "[" * 10_000])
def test_a_wrong_file_of_labels_is_one_error(tmp_path: Path, form: str, content: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"labels\.json"):
        read_labels(form, path)


def test_tasks_without_annotations_say_what_is_needed(predictions: Path, tmp_path: Path) -> None:
    export_predictions(predictions, "label-studio", tmp_path / "tasks")
    with pytest.raises(InputError, match="exports as JSON"):
        read_labels("label-studio", tmp_path / "tasks/tasks.json")


def test_labels_that_contradict_each_other_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_bytes(b"")
    coco = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"image_id": 1, "category_id": 1},
            {"image_id": 1, "category_id": 2},
            {"image_id": 2, "category_id": 2},
        ],
    }
    (tmp_path / "x.json").write_text(json.dumps(coco))
    labels, contradicted = read_labels("coco", tmp_path / "x.json")
    assert labels == {tmp_path / "b.png": "dog"}
    assert contradicted == [tmp_path / "a.png"]


def test_an_export_replaces_nothing(predictions: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    with pytest.raises(InputError, match="already exists"):
        export_predictions(predictions, "coco", tmp_path / "to")
    assert not list((tmp_path / "to").iterdir())


def test_a_picture_that_is_gone_is_named(predictions: Path, tmp_path: Path) -> None:
    gone = sorted((tmp_path / "photos").rglob("*.png"))[0]
    gone.unlink()
    with pytest.raises(InputError, match="no picture file"):
        export_predictions(predictions, "coco", tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_a_file_of_labels_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_BYTES", 10)
    (tmp_path / "export.json").write_text(json.dumps([None] * 10))
    with pytest.raises(InputError, match=r"export\.json"):
        read_labels("label-studio", tmp_path)
