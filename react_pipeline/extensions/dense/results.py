"""Detection and segmentation by one checkpoint, as an artifact: figures and detections.

Belongs here: publishing, and going on image by image after a kill. Does not belong here: predicting
(`regions`, `maps`, `student`), figures (`measures`), the difference to the base (`comparison`).

Files: `results.parquet`, `results.json` (`COLUMNS`), `per_class.parquet`, `images.parquet`,
`table.md`, `detections/<set>--<source>.json` (COCO's form of results).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial
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

from .measures import box_figures, map_figures, proposal_figures
from .sets import DenseImages, read_dense_set
from .settings import IGNORED, DenseConfig

if TYPE_CHECKING:
    from react_pipeline.clip import Clip

DENSE_RESULTS = "dense_results"
COLUMNS = ["set", "task", "source", "figure", "value", "n", "unavailable"]
"""`source` is where boxes come from, `map` (the frozen model's) or `student`; values are fractions.
"""


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
    content = {"sets": digests, "missing": sorted(missing), "files": files}
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
        self.checkpoint = checkpoint
        self.directory = directory
        self.scratch = scratch
        self.max_pixels = project.config.corpus.max_pixels
        self.per_class: list[list[Any]] = []

    @cached_property
    def clip(self) -> Clip:
        return load_model(self.project, self.checkpoint)

    def measure(self, images: DenseImages) -> list[list[Any]]:
        """Return the rows of one set."""
        boxes = images.entry.task == "detection"
        students = ("student",) if self.dense.student_images else ()
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

        def predict(position: int, path: Path) -> None:
            image = images.image(position, self.max_pixels)
            boxes, objectness = propose(position, image)
            image_id = truth["images"][position]["id"]
            places, scores, classes = (part.tolist() for part in detector(image, boxes, objectness))
            found = [
                _detection(image_id, categories[number], place, round(score, 5))
                for place, score, number in zip(places, scores, classes, strict=True)
            ]
            shares = [1.0] * len(boxes) if objectness is None else objectness.tolist()
            proposed = [
                _detection(image_id, categories[0], place, score)
                for place, score in zip(boxes.tolist(), shares, strict=True)
            ]
            path.write_text(json.dumps({"found": found, "proposed": proposed}))

        where = f"{images.entry.name}--{kind}"
        files = self._by_image(where, "json", images, predict)
        records = [json.loads(path.read_bytes()) for path in files]
        found = [box for record in records for box in record["found"]]
        (self.directory / "detections").mkdir(exist_ok=True)
        (self.directory / "detections" / f"{where}.json").write_text(json.dumps(found))
        figures, classes = box_figures(truth, found, images.entry.groups)
        for name, value in classes.items():
            self.per_class.append([images.entry.name, kind, name, "ap50", value])
        if figures and kind != "truth":
            proposed = [box for record in records for box in record["proposed"]]
            figures |= proposal_figures(truth, proposed)
        return figures

    def _maps(self, images: DenseImages, source: str) -> dict[str, float]:
        from .maps import Segmenter

        segmenter = _or_unavailable(
            lambda: Segmenter(self.clip, images, self._templates(images), self.dense)
        )
        predictor: Callable[[Image.Image], Any] = segmenter
        where = f"{images.entry.name}--{source}"
        if source == "student":
            from .student import Student

            predictor = Student(segmenter, self.dense)
            folder = str(self.dense.student_images).replace("{domain}", self.domain.slug)
            states = Scratch(self.scratch.folder / f"{where}--training")
            predictor.train(self.dense.root or Path(), folder, states, self.max_pixels)

        def predict(position: int, path: Path) -> None:
            ids = predictor(images.image(position, self.max_pixels))
            Image.fromarray(ids.astype(np.uint8)).save(path, "PNG")

        def maps() -> Iterator[tuple[Any, Any]]:
            for position, path in enumerate(self._by_image(where, "png", images, predict)):
                with Image.open(path) as opened:
                    found = np.asarray(opened)
                truth = images.label_map(position, found.shape[::-1])
                if not segmenter.scores_background and images.background is not None:
                    truth = np.where(truth == images.background, IGNORED, truth)
                yield truth, found

        figures, ious = map_figures(maps(), len(images.class_names))
        for name, iou in zip(images.class_names, ious.tolist(), strict=True):
            if np.isfinite(iou):
                row = [images.entry.name, source, name.split(";")[0], "iou", iou]
                self.per_class.append(row)
        return figures

    def _by_image(
        self, where: str, kind: str, images: DenseImages, predict: Callable[[int, Path], None]
    ) -> Iterator[Path]:
        """Yield the file that `predict` writes of each image; each is on disk before the next, and
        not written again after a kill.
        """
        parts = Scratch(self.scratch.folder / where)
        for position in tqdm(range(len(images)), where, unit="image", disable=None, leave=False):
            yield parts.keep(f"{position}.{kind}", partial(predict, position))


def _finish(
    directory: Path, rows: pd.DataFrame, per_class: list[list[Any]], present: list[DenseImages]
) -> dict[str, Any]:
    rows = rows.astype({"value": "float64"})
    rows.to_parquet(directory / "results.parquet", index=False)
    rows.to_json(directory / "results.json", orient="records", indent=1)
    table = pd.DataFrame(per_class, columns=["set", "source", "class", "figure", "value"])
    table.to_parquet(directory / "per_class.parquet", index=False)
    sizes = [
        [images.entry.name, *(image[key] for key in ("id", "file_name", "width", "height"))]
        for images in present
        for image in (images.truth or {"images": ()})["images"]
    ]
    pd.DataFrame(sizes, columns=["set", "image_id", "name", "width", "height"]).to_parquet(
        directory / "images.parquet"
    )
    lines = [
        [row.set, row.source, row.figure, _percent(row.figure, row.value), row.n, row.unavailable]
        for row in rows.itertuples()
    ]
    text = markdown_table(["set", "source", "figure", "%", "images", "not measured because"], lines)
    for images in present:
        expected = images.entry.expected
        if len(images) < expected:
            text += f"\n{images.entry.name}: {len(images)} of {expected} images.\n"
    (directory / "table.md").write_text(text, encoding="utf-8")
    values: dict[str, Any] = {"detection": {}, "segmentation": {}}
    for row in rows[rows["value"].notna()].itertuples():
        of_set = values[row.task].setdefault(row.set, {})
        of_set.setdefault(row.source, {})[row.figure] = float(row.value)
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
