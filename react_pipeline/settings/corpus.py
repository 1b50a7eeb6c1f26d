"""Configuration of the corpus: `corpus:` of `pipeline.yaml`.

Belongs here: what every kind of corpus has. Does not belong here: any kind (`corpus.kinds`, and
extensions).
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from react_pipeline.settings.addresses import is_url
from react_pipeline.settings.section import (
    Fraction,
    Kind,
    Section,
    absolute_path,
    kinds_of_extensions,
)

if TYPE_CHECKING:
    from react_pipeline.corpus import CorpusSize, ImageSource
    from react_pipeline.project import Project
    from react_pipeline.store import Artifact

MAX_PIXELS = 89_478_485
"""Of an image, width times height; half of the number at which Pillow refuses one."""

DEFAULT_KIND = "webdataset"


class DownloadConfig(Section):
    """How images are fetched from URLs."""

    processes: PositiveInt = 1
    threads: PositiveInt = 32
    timeout_seconds: PositiveFloat = 10
    retries: NonNegativeInt = 2
    image_size: PositiveInt | None = None
    max_failed_fraction: Fraction = 0.6
    allow_private_addresses: bool = False

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide which images are available, and their bytes."""
        # More retries make another corpus: that is how failed URLs are tried again.
        included = {"retries", "allow_private_addresses", "image_size"}
        return self.model_dump(mode="json", include=included)


class CorpusConfig(Kind):
    """A kind of corpus: its fields of `corpus:`, and all that the pipeline asks of it.

    A kind is a subclass of this, or of `corpus.ShardedCorpus` if its images are in tar shards. It
    is named by the default of its field `kind`, such as `kind: Literal["webdataset"] =
    "webdataset"`, and found by `Extension.corpus_kinds`. Heavy imports are inside its methods.

    Attributes:
        file_fields: Fields with names of local files, patterns, or URLs, as text.
        fetches_images: Whether pairs have URLs in place of images, and those of chosen pairs are
            fetched.
        is_listed: Whether its pairs are known by their captions before any image is there, so that
            images can wait (`corpus.ListedCorpus`).
        is_copy: Whether its pairs are copies of what `source_of` names.
        has_vectors: Whether `adopt_embeddings` publishes vectors, so that no image is encoded.
        noun: What `doctor` calls its `sources`.
        variants: Further names of `init --corpus` that `template` knows.
        next_step: What `init` says to do first: where the pictures go.
        assumed_pair_bytes: Of a pair in a shard, where nothing says it; web images at 256 pixels
            take half of it.
    """

    max_bad_fraction: Fraction = 0.1
    max_pixels: PositiveInt = MAX_PIXELS
    max_caption_chars: PositiveInt = 2_000

    hook: ClassVar[str] = "corpus_kinds"
    default_kind: ClassVar[str | None] = DEFAULT_KIND
    file_fields: ClassVar[tuple[str, ...]] = ()
    fetches_images: ClassVar[bool] = False
    is_listed: ClassVar[bool] = False
    is_copy: ClassVar[bool] = False
    has_vectors: ClassVar[bool] = False
    noun: ClassVar[str] = "files"
    variants: ClassVar[tuple[str, ...]] = ()
    next_step: ClassVar[str] = "name your captioned pictures in `corpus` of pipeline.yaml"
    assumed_pair_bytes: ClassVar[int] = 50_000

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide which images there are, not places or bytes of files."""
        raise NotImplementedError

    def identity_of_images(self) -> dict[str, Any]:
        """Return the part of the identity of pairs that decides which images are fetched."""
        return {}

    def files(self) -> tuple[str, ...]:
        """Return paths, patterns and URLs of the files to look at for a change."""
        named = (name for field in self.file_fields for name in getattr(self, field))
        return (*named, *super().files())

    @field_validator("*")
    @classmethod
    def _files_are_absolute(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name not in cls.file_fields:
            return value
        return tuple(
            name if is_url(name) else str(absolute_path(info.context, name)) for name in value
        )

    def misplaced(self, store: Path) -> tuple[str, str] | None:
        """Return a field that does not go with the place of the store, and why."""
        return None

    def publish(self, project: "Project") -> "Artifact":
        """Publish the artifact `corpus`.

        Raises:
            CorpusError: If it is damaged, or has no pair.
        """
        raise NotImplementedError

    def open_images(self, corpus: "Artifact", pool: Path) -> "ImageSource":
        """Return a reader of the images of chosen rows. Images that come over the net are kept in
        `pool`, a folder that all domains share.
        """
        raise NotImplementedError

    def caption_extension_in_shards(self) -> str:
        """Return the end of the names of captions in the shards."""
        return "txt"

    def source_of(self, fields: Mapping[str, str]) -> str:
        """Return the file or URL that a pair was copied from, by its metadata; "" if none."""
        return ""

    @property
    def links_vectors(self) -> bool:
        """Whether the vectors that are there are linked as they are, and take no disk."""
        return False

    @property
    def encodes_captions(self) -> bool:
        """Whether captions have no vectors yet."""
        return not self.has_vectors

    @property
    def ready_indices(self) -> Path | None:
        """The folder of ready indices, `image.index` and `text.index`; None: they are built."""
        return None

    def adopt_embeddings(self, project: "Project") -> "Artifact | None":
        """Publish `corpus_embeddings` of vectors that are there already; None: pairs are
        encoded.
        """
        return None

    def downloads(self) -> DownloadConfig:
        """Return how images are fetched."""
        return DownloadConfig()

    def size(self) -> "CorpusSize":
        """Return the number of pairs, as far as the files say before they are read.

        Raises:
            CorpusError: If they are not there.
            InputError: If they do not say it.
        """
        raise NotImplementedError

    def sources(self) -> Sequence[Any]:
        """Return the files and folders that it names, or what else it is read from, which `noun`
        names; a CorpusError if one is not there.
        """
        return tuple(value for _, value in self if isinstance(value, Path))

    def ingredients(self) -> tuple[tuple[str, str, str], ...]:
        """Return the packages that it is made of, for model cards: name, what of it, licence."""
        return ()

    @classmethod
    def template(cls, name: str) -> str:
        """Return the section `corpus:` that `init --corpus NAME` writes, without indentation; the
        default has each field that must be there, with the first of its `examples`.
        """
        lines = [f"kind: {name}"]
        for field, info in cls.model_fields.items():
            if info.is_required():
                example = json.dumps(info.examples[0]) if info.examples else "..."
                lines.append(f"{field}: {example} # yours")
        return "\n".join(lines)

    @classmethod
    def project_files(cls, name: str) -> Mapping[str, str]:
        """Return all files of a new project `name` by path, if the kind has its own; else none."""
        return {}


def corpus_kinds() -> Mapping[str, type[CorpusConfig]]:
    """Return every kind of corpus, by name."""
    return kinds_of_extensions(CorpusConfig.hook)


def _one_or_many(names: Any) -> Any:
    return (names,) if isinstance(names, str) else names


def _require_local(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if re.match(r"\s*[A-Za-z][A-Za-z0-9+.-]*:", name) or not name.strip():
            raise ValueError(
                f"{name!r}: tables and folders are read from local paths only; download them first"
            )
    return names


Names = Annotated[
    tuple[str, ...],
    BeforeValidator(_one_or_many),
    Field(min_length=1, examples=["data/*"]),
]
"""Paths and patterns of files, or URLs; one text is a list of one."""

LocalNames = Annotated[Names, AfterValidator(_require_local)]
"""The same without URLs."""

CaptionExtension = Annotated[str, Field(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)*$")]
"""The end of the names of captions' files, without the first dot, such as txt."""
