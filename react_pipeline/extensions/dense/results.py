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
from dataclasses import dataclass
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
CLASS_COLUMNS = ["set", "source", "class", "value"]
"""The value is the AP50 of boxes or the IoU of label maps."""
Sets = Mapping[str, BoxImages | MapImages]
Figures = tuple[dict[str, float], dict[str, float]]
"""Figures of a set, and one figure by class."""


def publish_dense(project: Project, slug: str, method: str) -> Artifact:
    """Publish what one checkpoint makes of the configured sets with boxes and with label maps.

    Data that are not there are rows with a reason and no value. Killed in between, what was
    predicted is not predicted again.

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
        measurer = _Measurer(project, dense, domain, inputs.parents, scratch)
        rows = [
            {"set": name, "task": entries[name].task, "source": "", "n": 0, "unavailable": reason}
            for name, reason in missing.items()
        ]
        classes = []
        for name, images in present.items():
            for source in measurer.sources(images):
                about = {"set": name, "task": images.entry.task, "source": source, "n": len(images)}
                figures, by_class = measurer.measure(images, source, directory)
                rows += [{**about, **figure} for figure in figures]
                classes += [[name, source, *row] for row in by_class]
        table = pd.DataFrame(rows, columns=COLUMNS).astype({"value": "float64"})
        table["figure"] = table["figure"].fillna("")
        table["images"] = table["set"].map(digests)
        table["status"] = table["unavailable"].fillna("ok")
        _write_tables(directory, table, present)
        class_table = pd.DataFrame(classes, columns=CLASS_COLUMNS)
        class_table.to_parquet(directory / "per_class.parquet", index=False)
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
        return {"delta": {method: _by_figure(rows, "delta") for method, rows in methods}}

    file = "results.parquet"
    return publish_comparison(project, "dense_comparison", slug, file, compare, count)


@dataclass
class _Measurer:
    """Measures sets one after another; the model is loaded for the first that is there."""

    project: Project
    dense: DenseConfig
    domain: DomainConfig
    parents: Mapping[str, Artifact]
    scratch: Scratch

    @cached_property
    def clip(self) -> Clip:
        return load_model(self.project, self.parents)

    def sources(self, images: BoxImages | MapImages) -> tuple[str, ...]:
        """Return where the predictions of a set come from."""
        if isinstance(images, BoxImages):
            return self.dense.boxes
        return ("map", "student") if self.dense.student_images else ("map",)

    def measure(
        self, images: BoxImages | MapImages, source: str, directory: Path
    ) -> tuple[list[dict[str, Any]], list[tuple[str, float]]]:
        """Return the rows of one set and source, and a value of each class."""
        from react_pipeline.clip import prompt_templates

        prompts = list(images.entry.templates) or prompt_templates(self.domain)
        try:
            if isinstance(images, BoxImages):
                figures, classes = self._boxes(images, prompts, source, directory)
            else:
                figures, classes = self._maps(images, prompts, source)
        except Unavailable as error:
            return [{"unavailable": error.reason}], []
        rows: list[Any] = [{"figure": name, "value": value} for name, value in figures.items()]
        return rows or [{"unavailable": "nothing in this set counts"}], list(classes.items())

    def _boxes(
        self, images: BoxImages, prompts: list[str], source: str, directory: Path
    ) -> Figures:
        import torch

        from .detection import Detector, boxes_of_file, coco_rows, true_boxes
        from .measures import box_figures, proposal_figures

        detector = Detector(self.clip, images.class_names, prompts)
        is_file = source == "file"
        propose = boxes_of_file(images, self.dense) if is_file else true_boxes(images)

        def detect(position: int, image: Image.Image) -> list[Any]:
            return [part.cpu().numpy() for part in detector(image, *propose(position))]

        found, proposed = [], []
        for position, arrays in enumerate(self._predicted(images, source, detect)):
            found += coco_rows(images, position, *map(torch.from_numpy, arrays))
            boxes, objectness = propose(position)
            if objectness is not None:
                classes = torch.zeros(len(boxes), dtype=torch.int64)
                proposed += coco_rows(images, position, boxes, objectness, classes)
        (directory / "detections").mkdir(exist_ok=True)
        path = directory / "detections" / f"{images.entry.name}--{source}.json"
        path.write_text(json.dumps(found))
        figures, by_class = box_figures(images.truth, found, images.entry.groups)
        if figures and is_file:
            figures |= proposal_figures(images.truth, proposed)
        return figures, by_class

    def _maps(self, images: MapImages, prompts: list[str], source: str) -> Figures:
        from .maps import Segmenter
        from .measures import map_figures
        from .student import Student

        segmenter = Segmenter(self.clip, images.class_names, prompts, self.dense)
        predictor: Callable[[Image.Image], Any] = segmenter
        if source == "student":
            predictor = Student(segmenter, self.dense)
            folder = str(self.dense.student_images).replace("{domain}", self.domain.slug)
            states = Scratch(self.scratch.folder / f"{images.entry.name}--training")
            max_pixels = self.project.config.corpus.max_pixels
            predictor.train(self.dense.root or Path(), folder, states, max_pixels)

        def segment(_position: int, image: Image.Image) -> list[Any]:
            return [predictor(image).astype(np.uint8)]

        pairs = (
            (images.label_map(position, ids.shape[::-1]), ids)
            for position, (ids,) in enumerate(self._predicted(images, source, segment))
        )
        return map_figures(pairs, images.class_names)

    def _predicted(
        self,
        images: BoxImages | MapImages,
        source: str,
        predict: Callable[[int, Image.Image], list[Any]],
    ) -> Iterator[list[Any]]:
        """Yield the arrays that `predict` gives for each image, which are on disk before the next
        image and not computed again after a kill.
        """
        title, max_pixels = f"{images.entry.name}--{source}", self.project.config.corpus.max_pixels
        parts = Scratch(self.scratch.folder / title)

        def write(position: int, path: Path) -> None:
            np.savez_compressed(path, *predict(position, images.image(position, max_pixels)))

        for position in progress(range(len(images)), title, "image", len(images)):
            kept = parts.keep(f"{position}.npz", partial(write, position))
            with np.load(kept, allow_pickle=False) as arrays:
                yield list(arrays.values())


def _write_tables(directory: Path, rows: pd.DataFrame, present: Sets) -> None:
    rows.to_parquet(directory / "results.parquet", index=False)
    sizes = [
        (name, image["id"], image["width"], image["height"])
        for name, images in present.items()
        if isinstance(images, BoxImages)
        for image in images.truth["images"]
    ]
    table = pd.DataFrame(sizes, columns=["set", "image_id", "width", "height"])
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
            task: _by_figure(measured[measured["task"] == task], "value")
            for task in ("detection", "segmentation")
        },
        "images": sum(map(len, present.values())),
        "not_measured": dict(zip(missing["set"], missing["unavailable"], strict=True)),
        "skipped_boxes": {
            name: images.skipped for name, images in present.items() if images.skipped
        },
    }


def _by_figure(rows: pd.DataFrame, column: str) -> dict[str, float]:
    """Return a column by set, source and figure, joined by dots as in MLflow."""
    names = rows["set"] + "." + rows["source"] + "." + rows["figure"]
    return dict(zip(names, rows[column].tolist(), strict=True))


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
