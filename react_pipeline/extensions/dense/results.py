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
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from react_pipeline.corpus import progress
from react_pipeline.extensions.elevater import (
    VALUES,
    compare_figures,
    load_model,
    publish_comparison,
    read_all,
    require_encoder,
)
from react_pipeline.labelled import Unavailable
from react_pipeline.lineage import resolve
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project
from react_pipeline.settings import DomainConfig
from react_pipeline.stage import method_key
from react_pipeline.store import Artifact, InputError, Scratch, sha256_of

from .sets import BoxImages, MapImages, read_dense_set
from .settings import DenseConfig

if TYPE_CHECKING:
    from react_pipeline.clip import Clip

COLUMNS = ["set", "task", "source", "figure", "value", "n", "images", "unavailable", "status"]
"""`source` is where boxes come from, `map` (the frozen model's) or `student`; `figure` is "" where
there is none; values are fractions; `images` is the digest of what was measured; `status` is `ok`,
or the reason as `unavailable` has it.
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
    domain = project.domain(slug)
    entries = {entry.name: entry for entry in dense.sets(slug)}
    present, missing = read_all(dense.root, "dense", entries, read_dense_set)
    digests = {name: images.digest() for name, images in present.items()}
    files = _digests_of_files(dense, present)
    content = {"sets": digests, "missing": sorted(missing), "files": files}
    inputs = resolve(project, "dense_results", method_key(slug, method), content=content)

    def write(directory: Path, scratch: Scratch) -> dict[str, Any]:
        started = time.monotonic()
        measurer = _Measurer(project, domain, inputs.parents, directory, scratch)
        rows = [row for images in present.values() for row in measurer.measure(images)]
        rows += [
            {"set": name, "task": entries[name].task, "source": "", "n": 0, "unavailable": reason}
            for name, reason in missing.items()
        ]
        table = pd.DataFrame(rows, columns=COLUMNS).astype({"value": "float64"})
        table["figure"] = table["figure"].fillna("")
        table["images"] = table["set"].map(digests)
        table["status"] = table["unavailable"].fillna("ok")
        _write_tables(directory, table, present)
        classes = pd.DataFrame(measurer.classes, columns=CLASS_COLUMNS)
        classes.to_parquet(directory / "per_class.parquet", index=False)
        return {**_counts(table, present), "seconds": round(time.monotonic() - started, 2)}

    return project.store.build(inputs, write)


def compare_dense(project: Project, slug: str) -> Artifact:
    """Publish the base with every method of a domain that has a fresh result; files and errors as
    of `publish_comparison`.
    """

    def compare(base: pd.DataFrame, methods: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        place = ["set", "source", "figure"]
        return compare_figures(base, methods, place)[["method", *place, *VALUES, "n", "status"]]

    def count(table: pd.DataFrame) -> dict[str, Any]:
        methods = table[table["status"] == "ok"].groupby("method", sort=False)
        return {"delta": {method: _nested(rows, "delta") for method, rows in methods}}

    file = "results.parquet"
    return publish_comparison(project, "dense_comparison", slug, file, compare, count)


@dataclass
class _Measurer:
    """Measures sets one after another; the model is loaded for the first that is there."""

    project: Project
    domain: DomainConfig
    parents: Mapping[str, Artifact]
    directory: Path
    scratch: Scratch
    classes: list[list[Any]] = field(default_factory=list)

    @cached_property
    def dense(self) -> DenseConfig:
        return self.project.config.section(DenseConfig)

    @cached_property
    def clip(self) -> Clip:
        return load_model(self.project, self.parents)

    def measure(self, images: BoxImages | MapImages) -> Iterator[dict[str, Any]]:
        """Yield the rows of one set."""
        name, task = images.entry.name, images.entry.task
        students = ("student",) if self.dense.student_images else ()
        for source in self.dense.boxes if task == "detection" else ("map", *students):
            about = {"set": name, "task": task, "source": source, "n": len(images)}
            try:
                if isinstance(images, BoxImages):
                    of_class, (figures, classes) = "ap50", self._boxes(images, source)
                else:
                    of_class, (figures, classes) = "iou", self._maps(images, source)
            except Unavailable as error:
                yield {**about, "unavailable": error.reason}
                continue
            if not figures:
                yield {**about, "unavailable": "nothing in this set counts"}
            yield from ({**about, "figure": key, "value": value} for key, value in figures.items())
            self.classes += [[name, source, key, of_class, value] for key, value in classes.items()]

    def _templates(self, images: BoxImages | MapImages) -> list[str]:
        from react_pipeline.clip import prompt_templates

        return list(images.entry.templates) or prompt_templates(self.domain)

    def _boxes(self, images: BoxImages, source: str) -> Figures:
        from .detection import Detector, boxes_of_file, coco_rows, true_boxes
        from .measures import box_figures, proposal_figures

        detector = Detector(self.clip, images.class_names, self._templates(images))
        is_true = source == "truth"
        propose = true_boxes(images) if is_true else boxes_of_file(images, self.dense)

        def predict(position: int, path: Path) -> None:
            image = images.image(position, self.project.config.corpus.max_pixels)
            found = detector(image, *propose(position))
            path.write_text(json.dumps(coco_rows(images, position, *found)))

        where = f"{images.entry.name}--{source}"
        files = self._by_image(where, "json", images, predict)
        found = [box for path in files for box in json.loads(path.read_bytes())]
        (self.directory / "detections").mkdir(exist_ok=True)
        (self.directory / "detections" / f"{where}.json").write_text(json.dumps(found))
        figures, classes = box_figures(images.truth, found, images.entry.groups)
        if figures and not is_true:
            every = range(len(images))
            proposed = [box for one in every for box in coco_rows(images, one, *propose(one))]
            figures |= proposal_figures(images.truth, proposed)
        return figures, classes

    def _maps(self, images: MapImages, source: str) -> Figures:
        from .maps import Segmenter
        from .measures import map_figures
        from .student import Student

        segmenter = Segmenter(self.clip, images.class_names, self._templates(images), self.dense)
        predictor: Callable[[Image.Image], Any] = segmenter
        max_pixels = self.project.config.corpus.max_pixels
        where = f"{images.entry.name}--{source}"
        if source == "student":
            predictor = Student(segmenter, self.dense)
            folder = str(self.dense.student_images).replace("{domain}", self.domain.slug)
            states = Scratch(self.scratch.folder / f"{where}--training")
            predictor.train(self.dense.root or Path(), folder, states, max_pixels)

        def predict(position: int, path: Path) -> None:
            ids = predictor(images.image(position, max_pixels))
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
        for position in progress(range(len(images)), where, "image", len(images)):
            yield parts.keep(f"{position}.{kind}", partial(predict, position))


def _write_tables(directory: Path, rows: pd.DataFrame, present: Sets) -> None:
    rows.to_parquet(directory / "results.parquet", index=False)
    sizes = [
        {"set": name, **image}
        for name, images in present.items()
        if isinstance(images, BoxImages)
        for image in images.truth["images"]
    ]
    table = pd.DataFrame(sizes, columns=["set", "id", "file_name", "width", "height"])
    table = table.rename(columns={"id": "image_id", "file_name": "name"})
    table.to_parquet(directory / "images.parquet")
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
    return {
        **{
            task: _nested(measured[measured["task"] == task], "value")
            for task in ("detection", "segmentation")
        },
        "images": sum(map(len, present.values())),
        "not_measured": dict(zip(missing["set"], missing["unavailable"], strict=True)),
        "skipped_boxes": {
            name: images.skipped for name, images in present.items() if images.skipped
        },
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
