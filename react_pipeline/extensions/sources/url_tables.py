"""A corpus from tables of URLs and captions: parquet and tsv files read in batches, unusable rows
counted by reason.

Does not belong here: fetching images (`downloads`).
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import csv

from react_pipeline.corpus import (
    ListedPair,
    progress,
    require_text_columns,
    schema_of_table,
    text_batches,
    whole_table,
)
from react_pipeline.extensions.sources.kinds import UrlTables
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.store import (
    Artifact,
    ChangedSource,
    CorpusError,
    Scratch,
    Store,
    open_regular,
    remembered_sha256,
)

TABLES_FILE = "tables.parquet"


def publish_url_tables(project: Project, corpus: UrlTables) -> Artifact:
    """Publish the artifact `corpus` of kind `urls`: the tables, and how many usable rows they have.

    Their digests identify the corpus, so tables that are moved or renamed stay the same corpus.

    Raises:
        CorpusError: If a table is unusable, or no row is.
    """
    tables = corpus.sources()
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
        ChangedSource: If one is gone, was added, or has changed since.
    """
    recorded = pd.read_parquet(artifact.file(TABLES_FILE))
    tables = corpus.sources()
    if [remembered_sha256(store.root, path) for path in tables] != recorded["sha256"].tolist():
        raise ChangedSource(
            f"corpus.urls: the tables are not those that `corpus` was materialized from "
            f"({', '.join(recorded['name'][:9])}); put them back, or materialize that again"
        )
    yield from read_rows(tables, corpus, Counter())


def read_rows(
    paths: Iterable[Path], corpus: UrlTables, skipped: Counter[str]
) -> Iterator[ListedPair]:
    """Yield the usable rows of all tables in their order; of equal URLs the first.

    The key of a pair is a digest of URL and caption: 32 hexadecimal digits.

    Blanks around URL and caption are cut. `skipped` counts the others: `no_url`, `no_caption`,
    `not_utf8`, `duplicate_url`, `bad_line` (of a tsv file). To know duplicates, about 160 bytes a
    row are held in memory.

    Raises:
        CorpusError: Naming the file, if it is damaged, lacks a column, or a column holds no text.
    """
    seen: set[bytes] = set()
    for path in paths:
        for raw_url, raw_caption, *hashes in _cells(path, corpus.columns(), skipped):
            url = _text(raw_url)
            caption = _text(raw_caption)
            if url is None or caption is None:
                skipped["not_utf8"] += 1
            elif not url:
                skipped["no_url"] += 1
            elif not caption:
                skipped["no_caption"] += 1
            else:
                digest = hashlib.sha256(url.encode())
                if (short := digest.digest()[:16]) in seen:
                    skipped["duplicate_url"] += 1
                    continue
                seen.add(short)
                # No URL holds a NUL, so no other pair of texts gives the same bytes.
                digest.update(b"\0" + caption.encode())
                fields = {"url": url, **({"hash": _text(hashes[0]) or ""} if hashes else {})}
                yield ListedPair(digest.hexdigest()[:32], caption, fields)


def _cells(
    path: Path, columns: dict[str, str], skipped: Counter[str]
) -> Iterator[tuple[bytes | None, ...]]:
    with whole_table(path), open_regular(path):
        if path.suffix == ".tsv":
            batches = _batches_of_tsv(path, columns, skipped)
        else:
            require_text_columns(path, schema_of_table(path), columns.items())
            batches = text_batches(path, list(columns.values()))
        for batch in batches:
            # As bytes: a parquet file may declare as text what is not UTF-8, and one such cell must
            # not stop the file.
            cells = (column.cast(pa.large_binary()).to_pylist() for column in batch.columns)
            yield from zip(*cells, strict=True)


def _batches_of_tsv(
    path: Path, columns: dict[str, str], skipped: Counter[str]
) -> Iterator[pa.RecordBatch]:
    """Yield batches of rows without quotes, as captions have their own; columns by number where the
    file begins without names.
    """
    is_numbered = all(name.isdigit() for name in columns.values())
    names = [f"f{name}" if is_numbered else name for name in columns.values()]

    def skip(_row: csv.InvalidRow) -> str:
        skipped["bad_line"] += 1
        return "skip"

    reader = csv.open_csv(
        path,
        # One thread: the handler of bad lines counts them.
        csv.ReadOptions(use_threads=False, autogenerate_column_names=is_numbered),
        csv.ParseOptions(delimiter="\t", quote_char=False, invalid_row_handler=skip),
        csv.ConvertOptions(column_types=dict.fromkeys(names, pa.binary())),
    )
    schema = pa.schema([(name, pa.string()) for name in reader.schema.names])
    require_text_columns(path, schema, zip(columns, names, strict=True))
    for batch in reader:
        yield batch.select(names)


def _text(cell: bytes | None) -> str | None:
    """Return a text without blanks around it; "" for a null, None if it is not UTF-8."""
    try:
        return (cell or b"").decode().strip()
    except UnicodeDecodeError:
        return None
