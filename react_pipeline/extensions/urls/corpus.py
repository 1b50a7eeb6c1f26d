"""A corpus from tables of URLs: an inventory of the tables. Images are fetched when they are
retrieved.

Files: `tables.parquet` with name, bytes and sha256 of each table. Does not belong here: reading the
tables (`tables`), fetching (`web.url_source`).
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.corpus import ListedPair, progress
from react_pipeline.extensions.urls.corpus_kind import UrlTables
from react_pipeline.extensions.urls.tables import find_tables, read_rows
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.store import (
    Artifact,
    ChangedSource,
    CorpusError,
    Scratch,
    Store,
    remembered_sha256,
)

TABLES_FILE = "tables.parquet"


def publish_inventory(project: Project, corpus: UrlTables) -> Artifact:
    """Publish the artifact `corpus` of kind `urls`: the tables, and how many usable rows they have.

    Their digests identify the corpus, so tables that are moved or renamed stay the same corpus.

    Raises:
        CorpusError: If a table is unusable, or no row is.
    """
    tables = find_tables(corpus.urls)
    digests = [remembered_sha256(project.store.root, path) for path in tables]

    def write(staging: Path, _: Scratch) -> dict[str, Any]:
        skipped = Counter[str]()
        pairs = sum(1 for _ in read_rows(progress(tables, "reading", "table"), corpus, skipped))
        if not pairs:
            raise CorpusError(
                f"corpus.urls: no usable row in {len(tables)} tables"
                + (f"; rows were skipped for {dict(skipped)}" if skipped else ", which are empty")
            )
        sizes = [path.stat().st_size for path in tables]
        columns = {"name": [path.name for path in tables], "bytes": sizes, "sha256": digests}
        pd.DataFrame(columns).to_parquet(staging / TABLES_FILE, index=False)
        return {
            "tables": len(tables),
            "bytes": sum(sizes),
            "pairs": pairs,
            "skipped": dict(skipped),
        }

    return project.store.build(resolve(project, "corpus", content=digests), write)


def listed_rows(store: Store, artifact: Artifact, corpus: UrlTables) -> Iterator[ListedPair]:
    """Yield the usable rows of the published tables.

    Raises:
        ChangedSource: Naming a table that is gone or has changed since.
    """
    recorded = pd.read_parquet(artifact.file(TABLES_FILE))
    tables = find_tables(corpus.urls)
    digests = {remembered_sha256(store.root, path): path for path in tables}
    if lacking := recorded.loc[~recorded["sha256"].isin(digests), "name"].tolist():
        raise ChangedSource(
            f"{lacking[0]}: this table is gone or has changed since `corpus` was materialized; put "
            "it back, or materialize that again"
        )
    tables = [digests[digest] for digest in recorded["sha256"]]
    yield from read_rows(tables, corpus, Counter())
