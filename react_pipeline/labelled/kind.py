"""Kinds of labelled images: how a domain's evaluation set is listed and read.

A kind is one class, of the core (here) or of an extension. Does not belong here: what is published
of a set (`labelled`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from react_pipeline.labelled.sources import Unavailable
from react_pipeline.project import Files
from react_pipeline.settings import DomainConfig, EvaluationSetConfig, labelled_kinds
from react_pipeline.store import InputError

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

_MARK = "//{kind}:"
"""Between the root and the rest of the location of an image that is no file; paths are normalised,
so none has it.
"""


class LabelledKind:
    """One kind. Override what differs from files below a folder.

    Attributes:
        name: As `kind` in the file of a domain.
        fields: Those of `EvaluationSetConfig` that it needs.
        are_files: Whether images are files; else `read` knows their locations.
    """

    name: ClassVar[str]
    fields: ClassVar[tuple[str, ...]] = ("path",)
    are_files: ClassVar[bool] = True

    def problem(self, evaluation: EvaluationSetConfig) -> str:
        """What is wrong with the fields of one set; "" if nothing is."""
        return ""

    def squash(self, evaluation: EvaluationSetConfig) -> bool:
        """Whether images are squashed to a square rather than cropped."""
        return False

    def outside(self, evaluation: EvaluationSetConfig) -> Files:
        """The files to look at for a change."""
        return Files() if evaluation.path is None else Files((str(evaluation.path),))

    def root(self, path: Path) -> Path:
        """The folder that the images' names are relative to."""
        return path.resolve()

    def made_from(self, evaluation: EvaluationSetConfig) -> Mapping[str, Any] | None:
        """Identity of images that `make` draws; None: they are there already."""
        return None

    def make(self, evaluation: EvaluationSetConfig, folder: Path) -> None:
        """Write images, and `manifest.csv` with their classes, into a folder."""
        raise NotImplementedError

    def images(
        self, evaluation: EvaluationSetConfig, domain: DomainConfig
    ) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Columns path (relative to `root`) and class, and notes for the manifest.

        Raises:
            Unavailable: If the set is not there.
            InputError: If it is wrong.
        """
        raise NotImplementedError

    def count(self, evaluation: EvaluationSetConfig, domain: DomainConfig) -> int:
        """How many images there are; errors as of `images`."""
        return len(self.images(evaluation, domain)[0])

    def locate(self, root: Path, name: str) -> str:
        """The absolute location of an image, for `read_image`."""
        return str(root / name) if self.are_files else f"{root}{_MARK.format(kind=self.name)}{name}"

    def read(self, root: Path, name: str) -> bytes:
        """The bytes of an image; an InputError if it is gone."""
        return read_file(root / name)

    def decode(self, data: bytes, max_pixels: int, *, lazy: bool = False) -> Image.Image:
        """An image, RGB; a truncated file among a user's own images is refused."""
        from react_pipeline.corpus import decode_image

        return decode_image(data, max_pixels, lazy=lazy)


class FolderOfClasses(LabelledKind):
    """A folder for each class."""

    name = "folder"

    def images(
        self, evaluation: EvaluationSetConfig, domain: DomainConfig
    ) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The images below the folders of classes."""
        from react_pipeline.labelled.labels import read_folder

        images, ignored = read_folder(require_folder(evaluation), domain)
        return images, {"ignored_files": ignored}


class Manifest(LabelledKind):
    """A table with columns path and class; paths are relative to its folder."""

    name = "manifest"

    def outside(self, evaluation: EvaluationSetConfig) -> Files:
        """The table; the images that it lists are not looked at."""
        return Files((str(evaluation.path),), complete=False)

    def root(self, path: Path) -> Path:
        """The folder of the table."""
        return path.resolve().parent

    def images(
        self, evaluation: EvaluationSetConfig, domain: DomainConfig
    ) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The rows of the table."""
        from react_pipeline.labelled.labels import read_manifest

        assert evaluation.path is not None  # noqa: S101 - a field that this kind needs
        if not evaluation.path.is_file():
            raise Unavailable(f"{described(evaluation)}: there is no file {evaluation.path}")
        return read_manifest(evaluation.path, domain), {}


def described(evaluation: EvaluationSetConfig) -> str:
    """As messages call a set."""
    return f"evaluation set {evaluation.name!r}"


def require_folder(evaluation: EvaluationSetConfig) -> Path:
    """The folder of a set; `Unavailable` if it is not there."""
    assert evaluation.path is not None  # noqa: S101 - only kinds that need `path` ask
    if not evaluation.path.resolve().is_dir():
        raise Unavailable(f"{described(evaluation)}: there is no folder {evaluation.path}")
    return evaluation.path.resolve()


def kind_of(location: str) -> tuple[LabelledKind | None, str, str]:
    """The kind that a location belongs to, its root and its name; None for a file."""
    for kind in labelled_kinds().values():
        if not kind.are_files:
            root, mark, name = location.partition(_MARK.format(kind=kind.name))
            if mark:
                return kind, root, name
    return None, "", location


def read_image(location: str) -> bytes:
    """The bytes of an image.

    Raises:
        InputError: If it is gone.
    """
    kind, root, name = kind_of(location)
    return read_file(Path(name)) if kind is None else kind.read(Path(root), name)


def decode(location: str, data: bytes, max_pixels: int, *, lazy: bool = False) -> Image.Image:
    """An image, RGB, as its kind decodes it."""
    kind = kind_of(location)[0] or FolderOfClasses()
    return kind.decode(data, max_pixels, lazy=lazy)


def read_file(path: Path) -> bytes:
    """The bytes of a file; an InputError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
