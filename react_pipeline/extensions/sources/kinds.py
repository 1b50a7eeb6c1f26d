"""What sources add: kinds of corpus that are in no tars, with their fields and all that the
pipeline asks of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import model_validator

from react_pipeline.corpus import (
    CorpusSize,
    ListedCorpus,
    ListedPair,
    ShardedCorpus,
    require_local,
)
from react_pipeline.extension import Extension
from react_pipeline.settings import (
    CaptionExtension,
    CorpusConfig,
    DownloadConfig,
    LocalNames,
)

if TYPE_CHECKING:
    from react_pipeline.corpus import ImageSource
    from react_pipeline.extensions.sources.ready_layout import Part
    from react_pipeline.project import Project
    from react_pipeline.store import Artifact, Store

ALIVE = 0.7
"""Share of web image URLs still alive after a few years; assumed."""
URLS_PER_CORE_SECOND = 100e6 / 72_000 / 16
"""100 million in 20 hours on 16 cores, by the README of img2dataset; assumed of ours too."""
DOWNLOADER_SECONDS = 5.0
"""To start a downloading process."""
TAR_BYTES = 2_500
"""That a tar adds to an image and its caption."""

LayoutName = Literal[
    "clip-retrieval", "clip-retrieval-images", "datacomp-b32", "datacomp-l14", "parquet"
]


class Images(ShardedCorpus):
    """Folders of images with captions next to them, and parquet files with images in them: copied
    once, into tar shards of the artifact.
    """

    kind: Literal["images"] = "images"
    images: LocalNames
    caption_extension: CaptionExtension = "txt"
    caption_column: str = "caption"

    file_fields: ClassVar[tuple[str, ...]] = ("images",)
    noun: ClassVar[str] = "folders and files"
    next_step: ClassVar[str] = "put your captioned pictures into data/: KEY.jpg next to KEY.txt"

    def identity(self) -> dict[str, Any]:
        """Return where captions are."""
        fields = {"kind", "caption_column", "caption_extension"}
        return self.model_dump(mode="json", include=fields)

    def misplaced(self, store: Path) -> tuple[str, str] | None:
        """Refuse a folder that holds the store, whose every step would change the corpus."""
        for folder in self.images:
            if store.resolve().is_relative_to(Path(folder).resolve()):
                remedy = "name the folders of the images, or move `store`"
                return "images", f"{folder} holds the store {store}; {remedy}"
        return None

    def publish(self, project: Project) -> Artifact:
        """Copy the images."""
        from react_pipeline.extensions.sources.image_files import publish_image_corpus

        return publish_image_corpus(project, self)

    def source_of(self, fields: Mapping[str, str]) -> str:
        """Return the path below the first of `images` that holds it: folders may have moved."""
        path = fields.get("path", "")
        for folder in self.images if path else ():
            if (Path(folder) / path).is_file():
                return str(Path(folder) / path)
        return path or fields.get("url", "")

    def size(self) -> CorpusSize:
        """Return the number of images and rows, with the bytes that one has in a shard."""
        from react_pipeline.corpus import IMAGE_SUFFIXES, rows_of_table
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
        """Return the folders and parquet files, in their order."""
        from react_pipeline.project import find_files

        found = (
            [Path(name)]
            if Path(name).is_dir()
            else find_files([name], (".parquet",), "corpus.images")
            for name in self.images
        )
        return list(dict.fromkeys(chain.from_iterable(found)))

    @classmethod
    def template(cls, name: str) -> str:
        """Return a section with the folder `data`."""
        return """\
kind: images # copied once, into tar shards of the store
images: [data] # folders with KEY.jpg|png|webp beside KEY.txt; or parquet files with images in them
# caption_column: text # of parquet files
"""


class TableColumns(CorpusConfig):
    """Columns of tables of URLs and captions, and how the URLs are fetched."""

    url_column: str = "url"
    caption_column: str = "caption"
    hash_column: str | None = None
    download: DownloadConfig = DownloadConfig()

    fetches_images: ClassVar[bool] = True
    assumed_pair_bytes: ClassVar[int] = 25_000

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        if self.url_column == self.caption_column:
            raise ValueError("`url_column` and `caption_column` name the same column")
        return self

    def columns(self) -> dict[str, str]:
        """Return the columns that are read, by the fields that name them."""
        columns = {"url_column": self.url_column, "caption_column": self.caption_column}
        return columns | ({"hash_column": self.hash_column} if self.hash_column else {})

    def downloads(self) -> DownloadConfig:
        """Return `download`."""
        return self.download

    def identity_of_images(self) -> dict[str, Any]:
        """Return what decides which images are fetched."""
        return {"download": self.download.identity()}

    def open_images(self, corpus: Artifact, pool: Path) -> ImageSource:
        """Return the images by their URLs."""
        from react_pipeline.extensions.sources.downloads import UrlSource

        return UrlSource(self, pool)


class UrlTables(TableColumns, ListedCorpus):
    """Tables of URLs and captions, parquet and tsv: the images are fetched when they are
    retrieved.
    """

    kind: Literal["urls"] = "urls"
    urls: LocalNames

    file_fields: ClassVar[tuple[str, ...]] = ("urls",)
    noun: ClassVar[str] = "tables of URLs"

    def identity(self) -> dict[str, Any]:
        """Return which columns are read."""
        fields = {"kind", "url_column", "caption_column", "hash_column"}
        return self.model_dump(mode="json", include=fields)

    def publish(self, project: Project) -> Artifact:
        """Take stock of the tables."""
        from react_pipeline.extensions.sources.url_tables import publish_url_tables

        return publish_url_tables(project, self)

    def pairs(self, store: Store, corpus: Artifact) -> Iterator[ListedPair]:
        """Yield the usable rows of the tables."""
        from react_pipeline.extensions.sources.url_tables import listed_rows

        return listed_rows(store, corpus, self)

    def size(self) -> CorpusSize:
        """Return the rows of parquet files; those of tsv files are not known."""
        from react_pipeline.corpus import rows_of_table

        return CorpusSize(
            sum(map(rows_of_table, require_local(self.sources()))), self.assumed_pair_bytes
        )

    def sources(self) -> Sequence[Path]:
        """Return the tables."""
        from react_pipeline.project import find_files

        return find_files(self.urls, (".parquet", ".tsv"), "corpus.urls")

    @classmethod
    def template(cls, name: str) -> str:
        """Return a section with the folder `tables`."""
        return """\
kind: urls # captions are compared with the class names; only images that are retrieved are fetched
urls: [tables/*.parquet]
url_column: url
caption_column: caption
# download: {processes: 4, threads: 32}
"""


class ReadyEmbeddings(TableColumns):
    """Published vectors and metadata in one of the layouts of `ready_layout`; images of chosen
    pairs are fetched.
    """

    kind: Literal["embeddings"] = "embeddings"
    embeddings: Path
    layout: LayoutName = "clip-retrieval"
    indices: Path | None = None
    vector_column: str = "vector"

    has_vectors: ClassVar[bool] = True
    variants: ClassVar[tuple[str, ...]] = ("datacomp",)
    noun: ClassVar[str] = "parts of ready embeddings"

    def identity(self) -> dict[str, Any]:
        """Return where vectors, URLs and captions are."""
        fields = {"kind", "layout", "url_column", "caption_column", "hash_column", "vector_column"}
        return self.model_dump(mode="json", include=fields)

    def publish(self, project: Project) -> Artifact:
        """Take stock of the files."""
        from react_pipeline.extensions.sources.ready_layout import publish_inventory

        return publish_inventory(project, self)

    @property
    def links_vectors(self) -> bool:
        """Whether the layout has `.npy` files."""
        return self.layout.startswith("clip-retrieval")

    @property
    def encodes_captions(self) -> bool:
        """Whether the layout has vectors of images alone."""
        from react_pipeline.extensions.sources.ready_layout import LAYOUTS

        return not LAYOUTS[self.layout].text

    @property
    def ready_indices(self) -> Path | None:
        """Return the folder `indices`."""
        return self.indices

    def adopt_embeddings(self, project: Project) -> Artifact:
        """Publish the files, linked or converted."""
        from react_pipeline.extensions.sources.ready_embeddings import adopt_embeddings

        return adopt_embeddings(project, self)

    def sources(self) -> Sequence[Part]:
        """Return the parts of the folder."""
        from react_pipeline.extensions.sources.ready_layout import find_parts

        return find_parts(self)

    def size(self) -> CorpusSize:
        """Return the rows of the files."""
        return CorpusSize(sum(part.rows for part in self.sources()), self.assumed_pair_bytes)

    @classmethod
    def template(cls, name: str) -> str:
        """Return a section with files of clip-retrieval, or of DataComp."""
        if name == "datacomp":
            return """\
kind: embeddings # as DataComp publishes them; only the images of chosen pairs are fetched
embeddings: metadata # the folder with HEX.parquet next to HEX.npz
layout: datacomp-b32 # vectors of OpenAI's ViT-B-32; those of its ViT-L-14: datacomp-l14
caption_column: text
hash_column: sha256
"""
        return """\
kind: embeddings # as clip-retrieval writes them; only the images of chosen pairs are fetched
embeddings: embeddings # the folder with img_emb/, text_emb/ and metadata/
# indices: indices # ready image.index and text.index over them
url_column: url
caption_column: caption
"""


class Sources(Extension):
    """Corpora in no tars."""

    def corpus_kinds(self) -> Iterable[type[CorpusConfig]]:
        """Return images in files, tables of URLs, and ready embeddings."""
        return Images, ReadyEmbeddings, UrlTables
