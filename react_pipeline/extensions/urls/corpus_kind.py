"""Tables of URLs and captions: the images are fetched when they are retrieved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from react_pipeline.corpus import ListedCorpus, ListedPair
from react_pipeline.extensions.web import TableColumns
from react_pipeline.settings import LocalNames

if TYPE_CHECKING:
    from react_pipeline.corpus import CorpusSize, CorpusWork
    from react_pipeline.project import Project
    from react_pipeline.store import Artifact, Store


URL_BYTES = 160
"""Of memory a row of a table, to know repeated URLs; measured."""


class UrlTables(TableColumns, ListedCorpus):
    """Parquet and tsv files."""

    kind: Literal["urls"] = "urls"
    urls: LocalNames

    file_fields: ClassVar[tuple[str, ...]] = ("urls",)

    def identity(self) -> dict[str, Any]:
        """Which columns are read."""
        fields = {"kind", "url_column", "caption_column", "hash_column"}
        return self.model_dump(mode="json", include=fields)

    def publish(self, project: Project) -> Artifact:
        """Take stock of the tables."""
        from react_pipeline.extensions.urls.corpus import publish_inventory

        return publish_inventory(project, self)

    def pairs(self, store: Store, corpus: Artifact) -> Iterator[ListedPair]:
        """The usable rows of the tables."""
        from react_pipeline.extensions.urls.corpus import listed_rows

        return listed_rows(store, corpus, self)

    def size(self) -> CorpusSize:
        """The rows of parquet files; those of tsv files are not known before they are read."""
        from react_pipeline.corpus import IMAGE_BYTES, CorpusSize, require_local, rows_of_table

        return CorpusSize(sum(map(rows_of_table, require_local(self.sources()))), IMAGE_BYTES)

    def work(self, size: CorpusSize, dimension: int) -> CorpusWork:
        """The tables are read."""
        from react_pipeline.corpus import CorpusWork

        return CorpusWork(noun="URLs", checked_rows=size.pairs, memory=URL_BYTES * size.pairs)

    def sources(self) -> Sequence[Path]:
        """The tables of URLs."""
        from react_pipeline.extensions.urls.tables import find_tables

        return find_tables(self.urls)

    def description(self) -> str:
        """How many tables there are."""
        return f"tables of URLs: {len(self.sources())}"

    @classmethod
    def template(cls, name: str, model: str) -> str:
        """Tables in the folder `tables`."""
        return """\
kind: urls # captions are compared with the class names; only images that are retrieved are fetched
urls: [tables/*.parquet]
url_column: url
caption_column: caption
# download: {processes: 4, threads: 32}
"""
