"""What protocols of extensions share: the model of a method, the data that are there, the results
to compare.

Does not belong here: reading a data set, what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from react_pipeline.labelled import Unavailable, lines_of
from react_pipeline.lineage import gather
from react_pipeline.project import Project
from react_pipeline.stage import STAGES
from react_pipeline.store import Artifact, InputError, MissingArtifact

if TYPE_CHECKING:
    from react_pipeline.clip import Clip

Place = TypeVar("Place")
Data = TypeVar("Data")


def require_encoder(project: Project, method: str) -> None:
    """Refuse a method whose checkpoint holds no model.

    Raises:
        InputError: If it holds a head alone.
    """
    if not project.method(method).has_model:
        raise InputError(f"{method}: a head is used on the base's own features; measure `base`")


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
    contents = {}
    missing = {}
    problems = []
    for name, place in places.items():
        try:
            contents[name] = read(root, place)
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
    return contents, missing


def results_to_compare(
    project: Project, stage: str, slug: str
) -> tuple[dict[str, Artifact], dict[str, str]]:
    """As `lineage.gather`, for a stage that compares with the base.

    Raises:
        MissingArtifact: If the base has no fresh result, or no method has.
    """
    results, skipped = gather(project, stage, slug)
    if "base" not in results or len(results) == 1:
        without = "no method" if "base" in results else "the base"
        reasons = "".join(f"; {method}: {reason}" for method, reason in skipped.items())
        (of,) = STAGES[stage].gathers
        raise MissingArtifact(
            f"{slug}: {without} has a result to compare{reasons}; materialize `{of}`",
            (stage, slug),
        )
    return results, skipped
