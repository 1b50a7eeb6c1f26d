"""Tables of URLs and captions: the images are downloaded into tar shards of the artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from react_pipeline.corpus import ShardedCorpus
from react_pipeline.extensions.web import TableColumns
from react_pipeline.settings import LocalNames

if TYPE_CHECKING:
    from react_pipeline.corpus import CorpusSize, CorpusWork
    from react_pipeline.project import Project
    from react_pipeline.store import Artifact


URL_BYTES = 160
"""Of memory a row of a table, to know repeated URLs; measured."""


class UrlTables(TableColumns, ShardedCorpus):
    """Parquet and tsv files."""

    kind: Literal["urls"] = "urls"
    urls: LocalNames

    file_fields: ClassVar[tuple[str, ...]] = ("urls",)
    noun: ClassVar[str] = "tables of URLs"
    is_copy: ClassVar[bool] = True

    def identity(self) -> dict[str, Any]:
        """Columns, and how images are fetched; what the web answers is not part of it."""
        fields = {"kind", "url_column", "caption_column", "hash_column", "max_pixels"}
        return {**self.model_dump(mode="json", include=fields), **self.download.identity()}

    def publish(self, project: Project) -> Artifact:
        """Download the images."""
        from react_pipeline.extensions.urls.corpus import publish_url_corpus

        return publish_url_corpus(project, self)

    def source_of(self, fields: Mapping[str, str]) -> str:
        """The URL."""
        return fields.get("url", "")

    def size(self) -> CorpusSize:
        """The rows of parquet files; those of tsv files are not known before they are read."""
        from react_pipeline.corpus import IMAGE_BYTES, CorpusSize, require_local, rows_of_table

        return CorpusSize(sum(map(rows_of_table, require_local(self.sources()))), IMAGE_BYTES)

    def work(self, size: CorpusSize, dimension: int) -> CorpusWork:
        """Downloads."""
        from react_pipeline.corpus import CorpusWork
        from react_pipeline.extensions.web import ALIVE

        return CorpusWork(
            noun="URLs",
            downloads=size.pairs,
            disk=ALIVE * size.bytes,
            memory=URL_BYTES * size.pairs,
        )

    def sources(self) -> Sequence[Path]:
        """The tables of URLs."""
        from react_pipeline.extensions.urls.tables import find_tables

        return find_tables(self.urls)

    @classmethod
    def template(cls, name: str, model: str) -> str:
        """Tables in the folder `tables`."""
        return """\
kind: urls # the images are downloaded into shards first
urls: [tables/*.parquet]
url_column: url
caption_column: caption
# download: {processes: 4, threads: 32}
"""
