"""Configuration of a domain's labelled images: `evaluation:` of a domain file.

Belongs here: what every kind of labelled images has. Does not belong here: any kind
(`labelled.kind`, and extensions).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from react_pipeline.settings.section import Kind, Name, kinds_of_extensions

if TYPE_CHECKING:
    import pandas as pd

    from react_pipeline.settings.config import DomainConfig


class EvaluationSetConfig(Kind):
    """A kind of labelled images: its fields of `evaluation:`, and all that the pipeline asks of it.

    The images evaluate models, and are kept out of the retrieved set. A kind is a subclass, named
    by the default of its field `kind`, such as `kind: Literal["folder"] = "folder"`, and found by
    `Extension.labelled_kinds`. Heavy imports are inside its methods.

    Attributes:
        is_watched: Whether `files` and `packages` are all that can change.
        are_files: Whether images are files; else `read` knows their locations, and what can be
            decoded of a truncated one is an image.
    """

    name: Name

    hook: ClassVar[str] = "labelled_kinds"
    is_watched: ClassVar[bool] = True
    are_files: ClassVar[bool] = True

    @property
    def squash(self) -> bool:
        """Whether images are squashed to a square rather than cropped."""
        return False

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide the set: all but the places of files."""
        return self.model_dump(mode="json", exclude={*self.places()}, exclude_none=True)

    def root(self) -> Path | None:
        """Return the folder that names of images start at; None: there is none."""
        return None

    def images(self, domain: "DomainConfig") -> tuple["pd.DataFrame", dict[str, Any]]:
        """Return columns path (relative to `root`) and class, and notes for the manifest.

        Raises:
            Unavailable: If the set is not there.
            InputError: If it is wrong.
        """
        raise NotImplementedError

    def count(self, domain: "DomainConfig") -> int:
        """Count the images; errors as of `images`."""
        return len(self.images(domain)[0])

    @classmethod
    def read(cls, root: Path, name: str) -> bytes:
        """Return the bytes of an image that is no file; an InputError if it is gone."""
        raise NotImplementedError


def labelled_kinds() -> Mapping[str, type[EvaluationSetConfig]]:
    """Return every kind of labelled images, by name."""
    return kinds_of_extensions(EvaluationSetConfig.hook)
