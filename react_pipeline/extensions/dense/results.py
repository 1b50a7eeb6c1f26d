"""Detection and segmentation by one checkpoint, as an artifact: figures, detections, and pictures
of some images.

Belongs here: publishing, and going on image by image after a kill. Does not belong here: predicting
(`dense_regions`, `dense_maps`, `dense_student`), figures (`dense_measures`), the difference to the
base (`dense_comparison`).

Files: `results.parquet`, `results.json` (`COLUMNS`), `per_class.parquet`, `images.parquet`,
`table.md`, `overlays.png`, `detections/<set>--<source>.json` (COCO's form of results),
`shown/<set>--<source>--<number>-{truth,found}.png`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from react_pipeline.extensions.protocols import (
    checkpoint_of,
    load_model,
    read_all,
    require_encoder,
)
from react_pipeline.labelled import Unavailable
from react_pipeline.lineage import resolve
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project
from react_pipeline.stage import method_key
from react_pipeline.store import (
    Artifact,
    InputError,
    Scratch,
    sha256_of,
)

from .measures import (
    box_figures,
    confusion,
    intersection_over_union,
    map_figures,
    proposal_figures,
)
from .pictures import boxes_tile, map_tile, write_overlays
from .sets import DenseImages, read_dense_set
from .settings import IGNORED, DenseConfig

if TYPE_CHECKING:
    from react_pipeline.clip import Clip

DENSE_RESULTS = "dense_results"
COLUMNS = ["set", "task", "source", "figure", "value", "n", "unavailable"]
"""`source` is where boxes come from, `map` (the frozen model's) or `student`; values are fractions.
"""
SHOWN = 3
"""Images of each set of which pictures are kept."""


def publish_dense(project: Project, slug: str, method: str) -> Artifact:
    """Publish what one checkpoint makes of the configured sets with boxes and with label maps.

    Data that are not there are rows with a reason and no value. Killed in between, finished images
    are not predicted again.

    Raises:
        InputError: If there is no `dense.root`, or the method is a linear head; or listing every
            set that is there and wrong, before anything is predicted.
    """
    require_encoder(project, method)
    dense = project.config.section(DenseConfig)
    key = method_key(project.domain(slug).slug, method)
    present, missing = read_dense_sets(dense, slug)
    digests = {images.entry.name: images.digest() for images in present}
    files = digests_of_files(dense, present)
    content = {"sets": digests, "missing": sorted(missing), "unavailable": "", "files": files}
    inputs = resolve(project, DENSE_RESULTS, key, content=content)

    def write(directory: Path, scratch: Scratch) -> dict[str, Any]:
        measuring = _Measuring(project, slug, checkpoint_of(inputs.parents), directory, scratch)
        started = time.monotonic()
        rows = [row for images in present for row in measuring.measure(images)]
        about = {entry.name: entry.task for entry in dense.sets(slug)}
        rows += [[name, about[name], "", "", np.nan, 0, why] for name, why in missing.items()]
        table = pd.DataFrame(rows, columns=COLUMNS)
        counts = _finish(directory, table, measuring.per_class, present)
        counts["digests"] = digests
        counts["skipped_boxes"] = {
            images.entry.name: dict(images.skipped) for images in present if images.skipped
        }
        counts["seconds"] = round(time.monotonic() - started, 2)
        return counts

    return project.store.build(inputs, write)


class _Measuring:
    def __init__(
        self, project: Project, slug: str, checkpoint: Artifact, directory: Path, scratch: Scratch
    ) -> None:
        self.project = project
        self.domain = project.domain(slug)
        self.dense = project.config.section(DenseConfig)
        self.slug = slug
        self.checkpoint = checkpoint
        self.directory = directory
        self.scratch = scratch
        self.max_pixels = project.config.corpus.max_pixels
        self.per_class: list[list[Any]] = []

    @cached_property
    def clip(self) -> Clip:
        return load_model(self.project, self.checkpoint)

    def measure(self, images: DenseImages) -> list[list[Any]]:
        """The rows of one set."""
        boxes = images.entry.task == "detection"
        students = () if boxes or not self.dense.student_images else ("student",)
        rows: list[list[Any]] = []
        for source in self.dense.boxes if boxes else ("map", *students):
            about = [images.entry.name, images.entry.task, source]
            try:
                figures = self._boxes(images, source) if boxes else self._maps(images, source)
                reason = "" if figures else "nothing in this set counts"
            except Unavailable as error:
                figures = {}
                reason = error.reason
            for figure, value in figures.items():
                rows.append([*about, figure, value, len(images), None])
            if reason:
                rows.append([*about, "", np.nan, len(images), reason])
        return rows

    def _templates(self, images: DenseImages) -> list[str]:
        from react_pipeline.clip import prompt_templates

        return list(images.entry.templates) or prompt_templates(self.domain)

    def _boxes(self, images: DenseImages, kind: str) -> dict[str, float]:
        from .boxes import box_source
        from .regions import Detector

        truth = images.truth or {}
        detector = _or_unavailable(
            lambda: Detector(self.clip, images.class_names, self._templates(images), self.dense)
        )
        propose = box_source(kind, images, self.dense, self.clip.device)
        categories = [category["id"] for category in truth["categories"]]
        where = f"{images.entry.name}--{kind}"

        def predict(position: int, _: Path) -> dict[str, Any]:
            image = images.image(position, self.max_pixels)
            boxes, objectness = propose(position, image)
            places, scores, classes = detector(image, boxes, objectness)
            image_id = truth["images"][position]["id"]
            detections = [
                _detection(image_id, categories[number], place, round(score, 5))
                for place, score, number in zip(
                    places.tolist(), scores.tolist(), classes.tolist(), strict=True
                )
            ]
            ranks = range(len(boxes), 0, -1) if objectness is None else objectness.tolist()
            proposals = [
                _detection(image_id, categories[0], place, float(score))
                for place, score in zip(boxes.tolist(), ranks, strict=True)
            ]
            return {"found": detections, "proposed": proposals}

        lines = list(self._by_image(where, images, predict))
        detections = [box for line in lines for box in line["found"]]
        (self.directory / "detections").mkdir(exist_ok=True)
        (self.directory / "detections" / f"{where}.json").write_text(json.dumps(detections))
        figures, classes = box_figures(truth, detections, images.entry.groups)
        for name, value in classes.items():
            self.per_class.append([images.entry.name, kind, name, "ap50", value])
        if figures and kind != "truth":
            figures |= proposal_figures(truth, [box for line in lines for box in line["proposed"]])
        for position in range(min(SHOWN, len(images))):
            self._show_boxes(images, position, lines[position]["found"], where)
        return figures

    def _show_boxes(
        self, images: DenseImages, position: int, detections: list[dict[str, Any]], where: str
    ) -> None:
        """Draw the true boxes of an image, and as many of the likeliest detections."""
        truth = images.truth or {}
        image_id = truth["images"][position]["id"]
        true_boxes = [box for box in truth["annotations"] if box["image_id"] == image_id]
        by_place = {tuple(box["bbox"]): box for box in sorted(detections, key=_SCORE)}
        likeliest = sorted(by_place.values(), key=_SCORE, reverse=True)[: len(true_boxes)]
        categories = [category["id"] for category in truth["categories"]]
        names = dict(zip(categories, images.class_names, strict=True))
        for side, boxes in (("truth", true_boxes), ("found", likeliest)):
            tile = boxes_tile(images.image(position, self.max_pixels), boxes, names)
            _show(tile, self.directory, f"{where}--{position}-{side}")

    def _maps(self, images: DenseImages, source: str) -> dict[str, float]:
        from .maps import Segmenter

        segmenter = _or_unavailable(
            lambda: Segmenter(self.clip, images, self._templates(images), self.dense)
        )
        predictor: Callable[[Image.Image], Any] = segmenter
        where = f"{images.entry.name}--{source}"
        classes = len(images.class_names)
        if source == "student":
            from .student import Student

            predictor = Student(segmenter, self.dense)
            folder = str(self.dense.student_images).replace("{domain}", self.slug)
            predictor.train(
                self.dense.root or Path(),
                folder,
                Scratch(self.scratch.folder / where),
                self.max_pixels,
            )

        def predict(position: int, folder: Path) -> list[list[int]]:
            image = images.image(position, self.max_pixels)
            truth = images.label_map(position, image.size)
            ids = predictor(image)
            if not segmenter.scores_background and images.background is not None:
                truth = np.where(truth == images.background, IGNORED, truth)
            if position < SHOWN:
                painted = np.where(truth == IGNORED, IGNORED, ids)
                for side, labels in (("truth", truth), ("found", painted)):
                    tile = map_tile(image, labels, images.class_names)
                    _show(tile, folder, f"{where}--{position}-{side}")
            matrix = confusion(truth, ids, classes)
            return np.column_stack([*matrix.nonzero(), matrix[matrix.nonzero()]]).tolist()

        matrix = np.zeros((classes, classes), np.int64)
        for cells in self._by_image(where, images, predict):
            for row, column, count in cells:
                matrix[row, column] += count
        ious = intersection_over_union(matrix)
        for number in np.flatnonzero(np.isfinite(ious)).tolist():
            name = images.class_names[number].split(";")[0]
            self.per_class.append([images.entry.name, source, name, "iou", float(ious[number])])
        return map_figures(matrix)

    def _by_image(
        self, where: str, images: DenseImages, predict: Callable[[int, Path], Any]
    ) -> Iterator[Any]:
        """What is predicted of each image; each is on disk before the next, and read again after a
        kill.
        """
        for position in tqdm(range(len(images)), where, unit="image", disable=None, leave=False):
            name = f"{where}--{position}"
            yield self.scratch.build(name, self.directory, partial(predict, position))


def _show(tile: Image.Image, directory: Path, name: str) -> None:
    (directory / "shown").mkdir(exist_ok=True)
    tile.save(directory / "shown" / f"{name}.png")


def _finish(
    directory: Path, rows: pd.DataFrame, per_class: list[list[Any]], present: list[DenseImages]
) -> dict[str, Any]:
    rows = rows.astype({"value": "float64"})
    rows.to_parquet(directory / "results.parquet", index=False)
    (directory / "results.json").write_text(
        rows.to_json(orient="records", indent=1) + "\n", encoding="utf-8"
    )
    table = pd.DataFrame(per_class, columns=["set", "source", "class", "figure", "value"])
    table.to_parquet(directory / "per_class.parquet", index=False)
    sizes = []
    for images in present:
        for image in images.truth["images"] if images.truth else ():
            size = image["width"], image["height"]
            sizes.append((images.entry.name, image["id"], image["file_name"], *size))
    pd.DataFrame(sizes, columns=["set", "image_id", "name", "width", "height"]).to_parquet(
        directory / "images.parquet"
    )
    lines = []
    for row in rows.itertuples():
        percent = _percent(row.figure, row.value)
        lines.append([row.set, row.source, row.figure, percent, row.n, row.unavailable])
    text = markdown_table(["set", "source", "figure", "%", "images", "not measured because"], lines)
    for images in present:
        expected = images.entry.expected
        if len(images) < expected:
            text += f"\n{images.entry.name}: {len(images)} of {expected} images.\n"
    (directory / "table.md").write_text(text, encoding="utf-8")
    write_overlays(directory, {"found": directory}, directory / "overlays.png")
    values: dict[str, dict[str, dict[str, dict[str, float]]]] = {
        "detection": {},
        "segmentation": {},
    }
    for row in rows[rows["value"].notna()].itertuples():
        values[row.task].setdefault(row.set, {}).setdefault(row.source, {})[row.figure] = float(
            row.value
        )
    reasons = rows[rows["value"].isna()]
    return {
        **values,
        "images": sum(map(len, present)),
        "not_measured": dict(zip(reasons["set"], reasons["unavailable"], strict=True)),
    }


def _percent(figure: str, value: float) -> str | None:
    if np.isnan(value):
        return None
    return f"{value:.0f}" if figure == "classes" else f"{100 * value:.1f}"


def _or_unavailable(build: Callable[[], Any]) -> Any:
    """A tower that cannot be used in this way is not an error of the data: the figures are
    unavailable.
    """
    try:
        return build()
    except InputError as error:
        raise Unavailable(str(error)) from error


_SCORE = itemgetter("score")


def _detection(image_id: int, category_id: int, place: list[float], score: float) -> dict[str, Any]:
    """A detection as COCO writes it."""
    left, top, right, bottom = place
    bbox = [round(value, 2) for value in (left, top, right - left, bottom - top)]
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


def read_dense_sets(dense: DenseConfig, slug: str) -> tuple[list[DenseImages], dict[str, str]]:
    """The configured sets with boxes and with label maps that are there, and why others are not:
    `read_all`.
    """
    present, missing = read_all(
        dense.root, "dense", {entry.name: entry for entry in dense.sets(slug)}, read_dense_set
    )
    return list(present.values()), missing


def digests_of_files(dense: DenseConfig, present: list[DenseImages]) -> dict[str, str]:
    """Of what measuring reads apart from the sets with boxes and with label maps.

    Raises:
        InputError: If a file cannot be read.
    """
    files = {"rpn": dense.rpn_checkpoint if "rpn" in dense.boxes else None}
    if dense.student_images:
        files["student"] = dense.student_backbone
    for images in present if "file" in dense.boxes else ():
        if images.entry.task == "detection":
            name = images.entry.name
            files[f"boxes of {name}"] = (dense.root or Path()) / dense.boxes_file.replace(
                "{dataset}", name
            )
    try:
        return {name: sha256_of(path) for name, path in files.items() if path is not None}
    except OSError as error:
        raise InputError(f"dense: {error.filename}: cannot be read ({error.strerror})") from error
