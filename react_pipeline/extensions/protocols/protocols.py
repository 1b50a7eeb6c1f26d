"""What the protocols of extensions share: the model of a method, the data that are there, files
that a user wrote in a known form.

Does not belong here: reading a data set, what is measured, comparing (`comparison`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from react_pipeline.labelled import Unavailable, lines_of
from react_pipeline.project import Project
from react_pipeline.store import Artifact, InputError, read_json_bounded

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
    """Return the checkpoint among the parents of a step."""
    return parents.get("base_checkpoint") or parents["customized_checkpoint"]


def load_model(project: Project, checkpoint: Artifact) -> Clip:
    """Load the model of a checkpoint on the project's device."""
    from react_pipeline.clip import choose_device, load

    return load(checkpoint.path, choose_device(project.config.device))


def read_form(path: Path, form: Any, name: str) -> Any:
    """Read a JSON file as a pydantic type.

    Args:
        name: What the form is called in messages.

    Raises:
        Unavailable: If there is no such file.
        InputError: If it cannot be read, or naming the first field that is wrong.
    """
    try:
        return TypeAdapter(form).validate_python(read_json_bounded(path))
    except FileNotFoundError as error:
        raise Unavailable(f"{path} is missing") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: is not {name}: {place}: {first['msg']}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is not {name}: {error}") from error


def read_all(
    root: Path | None,
    section: str,
    places: Mapping[str, Place],
    read: Callable[[Path, Place], Data],
) -> tuple[dict[str, Data], dict[str, str]]:
    """Read the data that are there, and return why others are not.

    Args:
        section: Section of pipeline.yaml that has the root.
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
            f"leave them out of `{section}`\n{lines_of(problems)}"
        )
    return contents, missing
