"""Seeds: the most confident predictions of each class, for retrieval image to image.

Does not belong here: searching with them, and refusing those that nearly show an evaluation image
(`retrieval`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from react_pipeline.extensions.labels.export import read_run
from react_pipeline.extensions.labels.writers import LabelledPicture
from react_pipeline.extensions.predict import folder_names
from react_pipeline.labelled import read_images
from react_pipeline.lineage import fresh
from react_pipeline.project import Project
from react_pipeline.settings import compose_yaml, edit_yaml, in_brackets, read_yaml
from react_pipeline.store import InputError, StoreWriteError, read_bounded, rename_synced, sha256_of


@dataclass(frozen=True)
class AddedSeeds:
    """Where the pictures are and how many; classes that have no seeds still; how many evaluation
    images were among the most confident pictures.
    """

    folder: Path
    pictures: int
    without: Sequence[str]
    evaluation_images: int


def add_seeds(project: Project, slug: str, predictions: Path, per_class: int) -> AddedSeeds:
    """Copy the most confident pictures of each class next to the domain file and name them there.

    A class that has seeds keeps them. Safe to repeat: the domain file is written last.

    Raises:
        InputError: If there is no finished run for the classes of the domain, or the domain file
            cannot be edited as it is written.
        MissingArtifact, StaleArtifact: If the evaluation set has to be materialized first.
        StoreWriteError: If the disk refuses it.
    """
    domain = project.domain(slug)
    run, _ = read_run(predictions)
    if changed := sorted({*run.classes} ^ {*domain.class_names}):
        raise InputError(
            f"{predictions}: predicted other classes than domain {slug!r} has (they differ in "
            f"{', '.join(map(repr, changed[:5]))}); predict again"
        )
    tested: set[str] = set()
    if domain.evaluation is not None:
        tested = {*read_images(fresh(project, "evaluation_set", slug), domain)["sha256"]}
    folder = project.config.domains / "seeds" / slug
    folders = folder_names(domain.class_names)
    seeds: dict[int, list[str]] = {}
    left_out = 0
    try:
        for number, entry in enumerate(domain.classes):
            if not entry.seeds:
                of_class = [one for one in run.pictures if one.label == entry.label]
                chosen, shown = _most_confident(of_class, per_class, tested)
                left_out += shown
                names = [_copy(one, folder / folders[entry.label]) for one in chosen.items()]
                seeds[number] = [f"seeds/{slug}/{folders[entry.label]}/{name}" for name in names]
    except OSError as error:
        raise StoreWriteError(f"{error.filename or folder}: {error.strerror or error}") from error
    added = {number: names for number, names in seeds.items() if names}
    put_in_classes(project.config.domains / f"{slug}.yaml", "seeds", added)
    without = [domain.class_names[number] for number, names in seeds.items() if not names]
    return AddedSeeds(folder, sum(map(len, seeds.values())), without, left_out)


def _most_confident(
    pictures: Sequence[LabelledPicture], count: int, tested: set[str]
) -> tuple[dict[str, Path], int]:
    """Distinct pictures of a class by digest, and how many evaluation images came before them."""
    chosen: dict[str, Path] = {}
    shown: set[str] = set()
    for picture in sorted(pictures, key=lambda one: (-one.confidence, -one.margin, one.path)):
        if len(chosen) == count:
            break
        digest = sha256_of(picture.path)
        if digest in tested:
            shown.add(digest)
        else:
            chosen.setdefault(digest, picture.path)
    return chosen, len(shown)


def _copy(picture: tuple[str, Path], folder: Path) -> str:
    digest, source = picture
    target = folder / f"{digest[:16]}{source.suffix.lower()}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}")
        shutil.copyfile(source, part)
        rename_synced(part, target)
    return target.name


def put_in_classes(path: Path, field: str, values: Mapping[int, Sequence[str]]) -> None:
    """Add to a list of classes (by class id); all else in the domain file stays as it is written.

    Raises:
        InputError: If that cannot be done in this text; nothing is written.
    """
    raw = read_yaml(path)
    text = read_bounded(path).decode()
    root: Any = compose_yaml(text)
    (classes,) = (value for key, value in root.value if key.value == "classes")
    edits = []
    for number, names in values.items():
        node = classes.value[number]
        if isinstance(node, yaml.ScalarNode):
            raw["classes"][number] = {"name": raw["classes"][number], field: [*names]}
            new = in_brackets(raw["classes"][number])
            edits.append((node.start_mark.index, node.end_mark.index, new))
            continue
        entry = raw["classes"][number]
        entry[field] = [*(entry.get(field) or ()), *names]
        fields = {key.value: value for key, value in node.value}
        edits.append(_added(text, node, fields["name"], fields.get(field), field, names))
    edit_yaml(path, edits, raw)


def _added(
    text: str, entry: Any, name: Any, present: Any, field: str, names: Sequence[str]
) -> tuple[int, int, str]:
    """The edit that adds names to a list of an entry, which may be empty or missing (None)."""
    if present is not None and not present.value:
        return present.start_mark.index, present.end_mark.index, in_brackets([*names])
    if present is not None:
        end = present.value[-1].end_mark.index
        indent = " " * present.start_mark.column
        before = ", " if present.flow_style else f"\n{indent}- "
        return end, end, "".join(before + in_brackets(one) for one in names)
    item = f"{field}: {in_brackets([*names])}"
    end = name.end_mark.index
    if entry.flow_style:
        return end, end, f", {item}"
    end = text.find("\n", end) if "\n" in text[end:] else len(text)
    return end, end, f"\n{' ' * entry.start_mark.column}{item}"
