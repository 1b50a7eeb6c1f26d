"""Writers: predictions of a `predict` run as the files that a tool opens.

Each writes into an empty folder. Does not belong here: reading labels back (`readers`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from PIL import ExifTags, Image

from react_pipeline.extensions.predict import folder_names

COCO_FILE = "annotations.json"
TASKS_FILE = "tasks.json"
FIFTYONE_FILE = "labels.json"


@dataclass(frozen=True)
class LabelledPicture:
    """A picture with its predicted class."""

    path: Path
    label: str
    confidence: float
    margin: float


@dataclass(frozen=True)
class Predictions:
    """Predictions to write.

    Attributes:
        folder: Name of the folder that they are written to.
        model: Name of the model, for tools that show it.
        classes: All class names, in the order of their ids.
        pictures: In the order of the predictions.
    """

    folder: str
    model: str
    classes: Sequence[str]
    pictures: Sequence[LabelledPicture]


def write_coco(predictions: Predictions, folder: Path) -> None:
    """COCO's results: one box as large as the picture, with a score."""
    images = []
    annotations = []
    category = {name: number for number, name in enumerate(predictions.classes, 1)}
    names = _copy(predictions.pictures, folder / "images")
    for number, (picture, name) in enumerate(zip(predictions.pictures, names, strict=True), 1):
        width, height = _upright_size(picture.path)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": category[picture.label],
                "bbox": [0, 0, width, height],
                "area": width * height,
                "iscrowd": 0,
                "score": round(picture.confidence, 6),
            }
        )
    categories = [{"id": number, "name": name} for name, number in category.items()]
    _write(
        folder / COCO_FILE,
        {"images": images, "annotations": annotations, "categories": categories},
    )


def _upright_size(path: Path) -> tuple[int, int]:
    """Width and height as tools show the picture, which turn it as its EXIF says."""
    with Image.open(path) as image:
        width, height = image.size
        is_on_its_side = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (height, width) if is_on_its_side else (width, height)


def write_image_folder(predictions: Predictions, folder: Path) -> None:
    """One folder a class, as torchvision's ImageFolder and Hugging Face's `imagefolder` read it."""
    directories = folder_names({picture.label for picture in predictions.pictures})
    for label, name in directories.items():
        of_class = [picture for picture in predictions.pictures if picture.label == label]
        _copy(of_class, folder / name)


def write_yolo(predictions: Predictions, folder: Path) -> None:
    """Ultralytics' classification: `train/CLASS/`; split it before you train."""
    write_image_folder(predictions, folder / "train")


def write_label_studio(predictions: Predictions, folder: Path) -> None:
    """Tasks with predictions, and the labelling interface; serve `images` as local files."""
    tasks = []
    names = _copy(predictions.pictures, folder / "images")
    for picture, name in zip(predictions.pictures, names, strict=True):
        choice = {
            "from_name": "class",
            "to_name": "image",
            "type": "choices",
            "value": {"choices": [picture.label]},
        }
        prediction = {
            "model_version": predictions.model,
            "score": round(picture.confidence, 6),
            "result": [choice],
        }
        # Of the folder after its renaming, relative to the root that the tool serves.
        path = quote(f"{predictions.folder}/images/{name}")
        url = f"/data/local-files/?d={path}"
        tasks.append({"data": {"image": url}, "predictions": [prediction]})
    _write(folder / TASKS_FILE, tasks)
    choices = "".join(f"<Choice value={quoteattr(name)}/>" for name in predictions.classes)
    (folder / "interface.xml").write_text(
        '<View><Image name="image" value="$image"/>'
        f'<Choices name="class" toName="image" choice="single">{choices}</Choices></View>\n',
        encoding="utf-8",
    )


def write_fiftyone(predictions: Predictions, folder: Path) -> None:
    """FiftyOne's `FiftyOneImageClassificationDataset`, with confidences."""
    ids = {name: number for number, name in enumerate(predictions.classes)}
    names = _copy(predictions.pictures, folder / "data", unique_stems=True)
    labels = {
        Path(name).stem: {"label": ids[picture.label], "confidence": round(picture.confidence, 6)}
        for picture, name in zip(predictions.pictures, names, strict=True)
    }
    _write(folder / FIFTYONE_FILE, {"classes": list(predictions.classes), "labels": labels})


WRITERS: Mapping[str, Callable[[Predictions, Path], None]] = {
    "coco": write_coco,
    "fiftyone": write_fiftyone,
    "imagefolder": write_image_folder,
    "label-studio": write_label_studio,
    "yolo": write_yolo,
}


def _copy(
    pictures: Sequence[LabelledPicture], folder: Path, *, unique_stems: bool = False
) -> list[str]:
    """Copy pictures under names that differ; returns the names."""
    folder.mkdir(parents=True)
    used: set[str] = set()
    names = []
    for picture in pictures:
        stem = picture.path.stem
        name = picture.path.name
        number = 1
        while (Path(name).stem if unique_stems else name).casefold() in used:
            number += 1
            name = f"{stem}-{number}{picture.path.suffix}"
        used.add((Path(name).stem if unique_stems else name).casefold())
        shutil.copyfile(picture.path, folder / name)
        names.append(name)
    return names


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + os.linesep, encoding="utf-8")
