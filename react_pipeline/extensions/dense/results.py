"""Detection and segmentation by one checkpoint, as an artifact, and the base beside each method.

Belongs here: publishing, resuming image by image after a kill, comparing. Does not belong here:
predicting (`detection`, `maps`, `student`), figures (`measures`).

Files of results: `results.parquet` (`COLUMNS`), `per_class.parquet`, `images.parquet`, `table.md`,
`detections/<set>--<source>.json` (COCO's form of results).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from react_pipeline.extensions.protocols import (
    VALUES,
    compare_figures,
    load_model,
    pick_checkpoint,
    publish_comparison,
    read_all,
    require_encoder,
)
from react_pipeline.labelled import Unavailable
from react_pipeline.lineage import resolve
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project
from react_pipeline.stage import method_key
from react_pipeline.store import Artifact, InputError, Scratch, sha256_of

from .sets import BoxImages, MapImages, read_dense_set
from .settings import DenseConfig

if TYPE_CHECKING:
    from torch import Tensor

    from react_pipeline.clip import Clip

COLUMNS = ["set", "task", "source", "figure", "value", "n", "images", "unavailable"]
"""`source` is where boxes come from, `map` (the frozen model's) or `student`; values are fractions;
`images` is the digest of what was measured.
"""
CLASS_COLUMNS = ["set", "source", "class", "figure", "value"]
Sets = Mapping[str, BoxImages | MapImages]
Figures = tuple[dict[str, float], dict[str, float]]
"""Figures of a set, and one figure by class."""


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
    entries = {entry.name: entry for entry in dense.sets(slug)}
    present, missing = read_all(dense.root, "dense", entries, read_dense_set)
    digests = {name: images.digest() for name, images in present.items()}
    files = _digests_of_files(dense, present)
    content = {"sets": digests, "missing": sorted(missing), "files": files}
    inputs = resolve(
        project, "dense_results", method_key(project.domain(slug).slug, method), content=content
    )

    def write(directory: Path, scratch: Scratch) -> dict[str, Any]:
        started = time.monotonic()
        measurer = _Measurer(project, slug, pick_checkpoint(inputs.parents), directory, scratch)
        rows = [row for images in present.values() for row in measurer.measure(images)]
        rows += [
            {"set": name, "task": entries[name].task, "source": "", "n": 0, "unavailable": reason}
            for name, reason in missing.items()
        ]
        table = pd.DataFrame(rows, columns=COLUMNS).astype({"value": "float64"})
        table["images"] = table["set"].map(digests)
        _write_tables(directory, table, present)
        classes = pd.DataFrame(measurer.classes, columns=CLASS_COLUMNS)
        classes.to_parquet(directory / "per_class.parquet", index=False)
        return {**_counts(table, present), "seconds": round(time.monotonic() - started, 2)}

    return project.store.build(inputs, write)


def compare_dense(project: Project, slug: str) -> Artifact:
    """Publish the base with every method of a domain that has a fresh result; files and errors as
    of `publish_comparison`.
    """

    def compare(results: Mapping[str, Artifact]) -> tuple[pd.DataFrame, dict[str, Any]]:
        tables = {}
        for name, result in results.items():
            rows = pd.read_parquet(result.file("results.parquet"))
            status = rows["unavailable"].fillna("ok")
            tables[name] = rows.fillna({"figure": ""}).assign(status=status)
        place = ["set", "source", "figure"]
        table = compare_figures(tables.pop("base"), tables, place)
        return table[["method", *place, *VALUES, "n", "status"]], {
            "delta": {
                method: _nested(rows, "delta")
                for method, rows in table[table["status"] == "ok"].groupby("method", sort=False)
            }
        }

    return publish_comparison(project, "dense_comparison", slug, compare)


class _Measurer:
    """Measures sets one after another; the model is loaded for the first that is there."""

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
        self.classes: list[list[Any]] = []

    @cached_property
    def clip(self) -> Clip:
        return load_model(self.project, self.checkpoint)

    def measure(self, images: BoxImages | MapImages) -> Iterator[dict[str, Any]]:
        """Yield the rows of one set."""
        entry = images.entry
        ways: dict[str, Callable[[], Figures]]
        if isinstance(images, BoxImages):
            figure_of_class = "ap50"
            ways = {source: partial(self._boxes, images, source) for source in self.dense.boxes}
        else:
            figure_of_class = "iou"
            students = ("student",) if self.dense.student_images else ()
            ways = {source: partial(self._maps, images, source) for source in ("map", *students)}
        for source, measure in ways.items():
            about = {
                **{"set": entry.name, "task": entry.task, "source": source},
                **{"n": len(images), "unavailable": None},
            }
            try:
                figures, classes = measure()
            except Unavailable as error:
                yield {**about, "unavailable": error.reason}
                continue
            if not figures:
                yield {**about, "unavailable": "nothing in this set counts"}
            for figure, value in figures.items():
                yield {**about, "figure": figure, "value": value}
            for name, value in classes.items():
                self.classes.append([entry.name, source, name, figure_of_class, value])

    def _templates(self, images: BoxImages | MapImages) -> list[str]:
        from react_pipeline.clip import prompt_templates

        return list(images.entry.templates) or prompt_templates(self.domain)

    def _boxes(self, images: BoxImages, source: str) -> Figures:
        from .detection import Detector, boxes_of_file, true_boxes
        from .measures import box_figures, proposal_figures

        truth = images.truth
        detector = Detector(self.clip, images.class_names, self._templates(images))
        is_true = source == "truth"
        propose = true_boxes(images) if is_true else boxes_of_file(images, self.dense)
        categories = [category["id"] for category in truth["categories"]]

        def predict(position: int, path: Path) -> None:
            image = images.image(position, self.max_pixels)
            boxes, objectness = propose(position, image)
            places, scores, classes = detector(image, boxes, objectness)
            labels = [categories[number] for number in classes.tolist()]
            record = {"found": _coco_rows(images.id(position), labels, places, scores)}
            if objectness is not None:
                any_class = categories[:1] * len(boxes)
                record["proposed"] = _coco_rows(images.id(position), any_class, boxes, objectness)
            path.write_text(json.dumps(record))

        where = f"{images.entry.name}--{source}"
        files = self._by_image(where, "json", images, predict)
        records = [json.loads(path.read_bytes()) for path in files]
        found = [box for record in records for box in record["found"]]
        (self.directory / "detections").mkdir(exist_ok=True)
        (self.directory / "detections" / f"{where}.json").write_text(json.dumps(found))
        figures, classes = box_figures(truth, found, images.entry.groups)
        if figures and not is_true:
            proposed = [box for record in records for box in record["proposed"]]
            figures |= proposal_figures(truth, proposed)
        return figures, classes

    def _maps(self, images: MapImages, source: str) -> Figures:
        from .maps import Segmenter
        from .measures import map_figures
        from .student import Student

        segmenter = Segmenter(self.clip, images.class_names, self._templates(images), self.dense)
        predictor: Callable[[Image.Image], Any] = segmenter
        where = f"{images.entry.name}--{source}"
        if source == "student":
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
                yield images.label_map(position, found.shape[::-1]), found

        figures, ious = map_figures(maps(), len(images.class_names))
        pairs = zip(images.class_names, ious.tolist(), strict=True)
        return figures, {name: iou for name, iou in pairs if np.isfinite(iou)}

    def _by_image(
        self,
        where: str,
        kind: str,
        images: BoxImages | MapImages,
        predict: Callable[[int, Path], None],
    ) -> Iterator[Path]:
        """Yield the file that `predict` writes of each image; each is on disk before the next, and
        not written again after a kill.
        """
        parts = Scratch(self.scratch.folder / where)
        for position in tqdm(range(len(images)), where, unit="image", disable=None, leave=False):
            yield parts.keep(f"{position}.{kind}", partial(predict, position))


def _coco_rows(image_id: int, categories: list[int], boxes: Tensor, scores: Any) -> list[Any]:
    """Return detections as COCO writes them, of boxes x0 y0 x1 y1."""
    sized = boxes.clone()
    sized[:, 2:] -= boxes[:, :2]
    return [
        {
            "image_id": image_id,
            "category_id": category,
            "bbox": [round(value, 2) for value in box],
            "score": round(score, 5),
        }
        for category, box, score in zip(categories, sized.tolist(), scores.tolist(), strict=True)
    ]


def _write_tables(directory: Path, rows: pd.DataFrame, present: Sets) -> None:
    rows.to_parquet(directory / "results.parquet", index=False)
    sizes = [
        [name, *(image[key] for key in ("id", "file_name", "width", "height"))]
        for name, images in present.items()
        if isinstance(images, BoxImages)
        for image in images.truth["images"]
    ]
    columns = ["set", "image_id", "name", "width", "height"]
    pd.DataFrame(sizes, columns=columns).to_parquet(directory / "images.parquet")
    points = rows["value"].map("{:.1%}".format, na_action="ignore")
    columns = ["set", "source", "figure", "value", "n", "unavailable"]
    lines = rows.assign(value=points)[columns].to_numpy().tolist()
    text = markdown_table([*columns[:-1], "not measured because"], lines)
    for name, images in present.items():
        if len(images) < images.entry.expected:
            text += f"\n{name}: {len(images)} of {images.entry.expected} images.\n"
    (directory / "table.md").write_text(text, encoding="utf-8")


def _counts(rows: pd.DataFrame, present: Sets) -> dict[str, Any]:
    measured, missing = rows[rows["value"].notna()], rows[rows["value"].isna()]
    skipped = {name: getattr(images, "skipped", None) for name, images in present.items()}
    return {
        **{
            task: _nested(measured[measured["task"] == task], "value")
            for task in ("detection", "segmentation")
        },
        "images": sum(map(len, present.values())),
        "not_measured": dict(zip(missing["set"], missing["unavailable"], strict=True)),
        "skipped_boxes": {name: dict(count) for name, count in skipped.items() if count},
    }


def _nested(rows: pd.DataFrame, column: str) -> dict[str, dict[str, dict[str, float]]]:
    """Return a column by set, source and figure."""
    values: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows.to_dict("records"):
        of_source = values.setdefault(row["set"], {}).setdefault(row["source"], {})
        of_source[row["figure"]] = row[column]
    return values


def _digests_of_files(dense: DenseConfig, present: Sets) -> dict[str, str]:
    """Return the digests of what measuring reads apart from the sets; an InputError if a file
    cannot be read.
    """
    files = {"student": dense.student_backbone if dense.student_images else None}
    for name, images in present.items():
        if isinstance(images, BoxImages) and "file" in dense.boxes:
            files[f"boxes of {name}"] = dense.boxes_path(name)
    try:
        return {name: sha256_of(path) for name, path in files.items() if path is not None}
    except OSError as error:
        raise InputError(f"dense: {error.filename}: cannot be read ({error.strerror})") from error
