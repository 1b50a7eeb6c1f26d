"""Ready embeddings as a corpus: the inventory of their files, and where they are now.

Belongs here: the artifact `corpus` of kind `embeddings`. Does not belong here: the files' layout and its checks
(`ready_layout`), `corpus_embeddings` of this kind (`adopt`), reading rows (`vectors`), fetching images (`downloads`).

Nothing is copied: the artifact records which files there are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from tqdm import tqdm

from react_pipeline.corpus.ready_layout import check_values, find_parts
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.store import CACHE, Artifact, CorpusError, remembered_sha256, write_atomically

PARTS_FILE = "parts.parquet"
FILES_FILE = "files.parquet"


def publish_inventory(project: Project) -> Artifact:
    """Publish the artifact `corpus` of kind `embeddings`: the inventory of the files.

    Files: `parts.parquet` (number, the three names, rows, dimension), `files.parquet` (name, bytes, sha256).

    The identity of the corpus is names and digests in order, so a folder that is moved stays the same corpus. Digests
    are remembered by path, size and time: a terabyte is read for them once. A new corpus is read once more for its
    values.

    Raises:
        CorpusError: Naming the file that is missing, damaged or does not fit, or the row that is no unit vector.
    """
    config = project.config.corpus
    folder = config.embeddings
    if folder is None:
        raise CorpusError("corpus.embeddings: names no folder; kind `embeddings` needs it")
    parts = find_parts(folder, config.url_column, config.caption_column)
    names = [name for part in parts for name in part.names]
    digests = [
        remembered_sha256(project.store.root, folder / name)
        for name in tqdm(names, desc="checking files", unit="file", disable=None, leave=False)
    ]

    def write(staging: Path) -> dict[str, Any]:
        check_values(folder, parts)
        files = pd.DataFrame({"name": names, "bytes": [(folder / name).stat().st_size for name in names]})
        files.assign(sha256=digests).to_parquet(staging / FILES_FILE, index=False)
        pd.DataFrame(parts).to_parquet(staging / PARTS_FILE, index=False)
        return {
            "shards": len(parts),
            "bytes": int(files["bytes"].sum()),
            "pairs": sum(part.rows for part in parts),
            "dimension": parts[0].dimension,
            "empty_captions": sum(_empty_captions(folder / part.metadata, config.caption_column) for part in parts),
        }

    content = [list(pair) for pair in zip(names, digests, strict=True)]
    artifact = project.store.build(resolve(project, "corpus", content=content), write)
    remember_folder(artifact, folder)
    return artifact


def _empty_captions(path: Path, column: str) -> int:
    empty = 0
    for batch in pq.ParquetFile(path).iter_batches(columns=[column]):
        empty += sum(text is None or not text.strip() for text in batch.column(0).to_pylist())
    return empty


def remember_folder(artifact: Artifact, folder: Path) -> None:
    """Keep where ready embeddings are now, outside their artifact `corpus`, which never changes."""
    write_atomically(_moved_to(artifact.path.parents[2], artifact.fingerprint), json.dumps(str(folder)))


def folder_of(root: Path, corpus: str, recorded: str) -> Path:
    """Where the files of a `corpus` of kind `embeddings` are now.

    Args:
        recorded: Where they were when they were adopted; the answer if nothing newer is known.
    """
    moved = _moved_to(root, corpus)
    return Path(json.loads(moved.read_text()) if moved.exists() else recorded)


def _moved_to(root: Path, corpus: str) -> Path:
    return root / CACHE / "ready_embeddings" / f"{corpus}.json"
