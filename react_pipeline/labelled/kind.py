"""Kinds of labelled images: how a domain's evaluation set is listed and read.

A kind is one class, of the core (here) or of an extension. Does not belong here: what is asked of
every kind (`settings.EvaluationSetConfig`), what is published of a set (`labelled`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from react_pipeline.settings import DomainConfig, EvaluationSetConfig, labelled_kinds
from react_pipeline.store import MAX_IMAGE_BYTES, InputError, read_bounded

if TYPE_CHECKING:
    import pandas as pd

_MARK = "//"
"""Between the root and `<kind>:<name>` of an image that is no file; paths are normalised, so none
has it.
"""


class Unavailable(InputError):  # noqa: N818 - reads as the state it reports
    """Data that is not there, as opposed to data that is wrong; `reason` is what is missing and
    where to get it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class FolderOfClasses(EvaluationSetConfig):
    """A folder for each class."""

    kind: Literal["folder"] = "folder"
    path: Path

    def root(self) -> Path:
        """Return the folder."""
        return self.path.resolve()

    def images(self, domain: DomainConfig) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Return the images below the folders of classes."""
        from react_pipeline.labelled.labels import read_folder

        images, ignored = read_folder(require_folder(self, self.path), domain)
        return images, {"ignored_files": ignored}


class Manifest(EvaluationSetConfig):
    """A table with columns path and class; paths are relative to its folder."""

    kind: Literal["manifest"] = "manifest"
    path: Path

    is_watched: ClassVar[bool] = False  # the images that it lists are not looked at

    def root(self) -> Path:
        """Return the folder of the table."""
        return self.path.resolve().parent

    def images(self, domain: DomainConfig) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Return the rows of the table."""
        from react_pipeline.labelled.labels import read_manifest

        if not self.path.is_file():
            raise Unavailable(f"{described(self)}: there is no file {self.path}")
        return read_manifest(self.path, domain), {}


def described(evaluation: EvaluationSetConfig) -> str:
    """Return how messages name a set."""
    return f"evaluation set {evaluation.name!r}"


def require_folder(evaluation: EvaluationSetConfig, path: Path) -> Path:
    """Return the folder of a set; `Unavailable` if it is not there."""
    if not path.resolve().is_dir():
        raise Unavailable(f"{described(evaluation)}: there is no folder {path}")
    return path.resolve()


def locate(kind: str, root: Path, name: str) -> str:
    """Return the absolute location of an image of a kind, for `read_image`."""
    is_file = labelled_kinds()[kind].are_files
    return str(root / name) if is_file else f"{root}{_MARK}{kind}:{name}"


def is_file(location: str) -> bool:
    """Whether an image is a file. Of another that is truncated, the part that is there is used."""
    return _MARK not in location


def read_image(location: str) -> bytes:
    """Read the bytes of an image.

    Raises:
        InputError: If it is gone.
    """
    if is_file(location):
        return read_file(Path(location))
    root, _, rest = location.partition(_MARK)
    kind, _, name = rest.partition(":")
    return labelled_kinds()[kind].read(Path(root), name)


def read_file(path: Path) -> bytes:
    """Read the bytes of a file; an InputError if it cannot be read."""
    try:
        return read_bounded(path, MAX_IMAGE_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
