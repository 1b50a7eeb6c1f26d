"""Folders of images with captions next to them, and parquet files with images in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from react_pipeline.corpus import ShardedCorpus
from react_pipeline.settings import CaptionExtension, LocalNames

if TYPE_CHECKING:
    from react_pipeline.corpus import CorpusSize
    from react_pipeline.project import Project
    from react_pipeline.store import Artifact


TAR_BYTES = 2_500
"""That a tar adds to an image and its caption."""


class Images(ShardedCorpus):
    """They are copied once, into tar shards of the artifact."""

    kind: Literal["images"] = "images"
    images: LocalNames
    caption_extension: CaptionExtension = "txt"
    caption_column: str = "caption"

    file_fields: ClassVar[tuple[str, ...]] = ("images",)
    noun: ClassVar[str] = "folders and files"
    next_step: ClassVar[str] = "put your captioned pictures into data/: KEY.jpg next to KEY.txt"
    is_copy: ClassVar[bool] = True

    def identity(self) -> dict[str, Any]:
        """Where captions are."""
        fields = {"kind", "caption_column", "caption_extension"}
        return self.model_dump(mode="json", include=fields)

    def misplaced(self, store: Path) -> tuple[str, str] | None:
        """Each step changes what is in the store, so that the corpus would never be up to date."""
        for folder in self.images:
            if store.is_relative_to(Path(folder).resolve()):
                remedy = "name the folders of the images, or move `store`"
                return "images", f"{folder} holds the store {store}; {remedy}"
        return None

    def publish(self, project: Project) -> Artifact:
        """Copy them."""
        from react_pipeline.extensions.images.image_files import publish_image_corpus

        return publish_image_corpus(project, self)

    def source_of(self, fields: Mapping[str, str]) -> str:
        """A path is recorded below its folder, which may have moved: the first of `images` that
        holds it is added.
        """
        path = fields.get("path", "")
        for folder in self.images if path else ():
            if (Path(folder) / path).is_file():
                return str(Path(folder) / path)
        return path or fields.get("url", "")

    def size(self) -> CorpusSize:
        """Images of folders, and rows of parquet files, with the bytes that one has in a shard."""
        from react_pipeline.corpus import IMAGE_SUFFIXES, CorpusSize, rows_of_table
        from react_pipeline.project import files_below

        pairs = 0
        total = 0
        for source in self.sources():
            if source.is_dir():
                files = list(files_below(source))
                images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
                pairs += len(images)
                total += sum(path.stat().st_size for path in images)
            else:
                pairs += rows_of_table(source)
                total += source.stat().st_size
        return CorpusSize(pairs, TAR_BYTES + total / max(pairs, 1))

    def sources(self) -> Sequence[Path]:
        """The folders and files."""
        from react_pipeline.extensions.images.image_files import find_sources

        return find_sources(self)

    @classmethod
    def template(cls, name: str, model: str) -> str:
        """The folder `data`."""
        return """\
kind: images # copied once, into tar shards of the store
images: [data] # folders with KEY.jpg|png|webp beside KEY.txt; or parquet files with images in them
# caption_column: text # of parquet files
"""
