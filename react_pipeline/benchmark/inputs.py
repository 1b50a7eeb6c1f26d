"""What the protocols measure: the model of a method, on those of the configured data that are
there.

Does not belong here: reading a data set (`react_pipeline.labelled`), what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from react_pipeline.labelled import DenseImages, Unavailable, lines_of, read_dense_set
from react_pipeline.project import Project
from react_pipeline.settings import DenseConfig, is_linear_head
from react_pipeline.store import Artifact, InputError, sha256_of

if TYPE_CHECKING:
    from react_pipeline.clip import Clip

Place = TypeVar("Place")
Data = TypeVar("Data")

PROGRESS = "progress"
"""Folder of the markers of what is finished, in staging alone."""


def require_encoder(method: str) -> None:
    """Refuse a method that has no image tower of its own.

    Raises:
        InputError: If it is a linear head.
    """
    if is_linear_head(method):
        raise InputError(
            f"{method}: a linear head is used on the base's own features; measure `base`"
        )


def checkpoint_of(parents: Mapping[str, Artifact]) -> Artifact:
    """The checkpoint among the parents of a step."""
    return parents.get("base_checkpoint") or parents["customized_checkpoint"]


def load_model(project: Project, checkpoint: Artifact) -> Clip:
    """The model of a checkpoint, on the project's device."""
    from react_pipeline.clip import choose_device, load

    return load(checkpoint.path, choose_device(project.config.device))


def read_all(
    root: Path | None,
    section: str,
    places: Mapping[str, Place],
    read: Callable[[Path, Place], Data],
) -> tuple[dict[str, Data], dict[str, str]]:
    """The data that are there, by name, and why others are not.

    Args:
        section: Of pipeline.yaml, which has the root.
        places: By name, what `read` is called with in addition to the root.

    Raises:
        InputError: If there is no root, or listing everything that is there and wrong.
    """
    if root is None or not root.is_dir():
        wrong = "is not set" if root is None else f"there is no folder {root}"
        raise InputError(f"{section}.root: {wrong}; look at the data with `{section} check`")
    found, missing, problems = {}, {}, []
    for name, place in places.items():
        try:
            found[name] = read(root, place)
        except Unavailable as error:
            missing[name] = error.reason
        except InputError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise InputError(
            f"{root}: {len(problems)} of {len(places)} cannot be used; fix or remove them, or "
            "leave them out of "
            f"`{section}`\n{lines_of(problems)}"
        )
    return found, missing


def read_dense_sets(dense: DenseConfig, slug: str) -> tuple[list[DenseImages], dict[str, str]]:
    """The configured sets with boxes and with label maps that are there, and why others are not:
    `read_all`.
    """
    found, missing = read_all(
        dense.root, "dense", {entry.name: entry for entry in dense.sets(slug)}, read_dense_set
    )
    return list(found.values()), missing


def digests_of_files(dense: DenseConfig, found: list[DenseImages]) -> dict[str, str]:
    """Of what measuring reads apart from the sets with boxes and with label maps.

    Raises:
        InputError: If a file cannot be read.
    """
    files = {"rpn": dense.rpn_checkpoint if "rpn" in dense.boxes else None}
    if dense.student_images:
        files["student"] = dense.student_backbone
    for images in found if "file" in dense.boxes else ():
        if images.entry.task == "detection":
            name = images.entry.name
            files[f"boxes of {name}"] = (dense.root or Path()) / dense.boxes_file.replace(
                "{dataset}", name
            )
    try:
        return {name: sha256_of(path) for name, path in files.items() if path is not None}
    except OSError as error:
        raise InputError(f"dense: {error.filename}: cannot be read ({error.strerror})") from error
