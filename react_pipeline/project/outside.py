"""What lies outside the store, looked at cheaply: names, sizes and times of files, never their bytes.

Belongs here: finding that shards, a checkpoint's files or labelled images may have changed. Does not belong here:
whether they really did (the stages `corpus`, `base_checkpoint` and `evaluation_set` read them when they are built).

Remote shards are not looked at: asking a server for thousands of objects every minute is no courtesy. The schedule
materializes `corpus`, and that asks.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from react_pipeline.project.project import Project
from react_pipeline.store import Artifact, canonical_json

MAX_LISTED = 100_000
"""Files that one look lists; a change beyond them is seen by the schedule."""

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def glance(project: Project, names: Iterable[str]) -> str:
    """A digest of the names, sizes and times of the local files that paths and patterns name; "" if there is none."""
    rows: list[tuple[str, int, int]] = []
    for path in _local(project, names):
        if len(rows) == MAX_LISTED:
            break
        try:
            stat = path.stat()
        except OSError:  # removed while we looked
            continue
        rows.append((str(path), stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(canonical_json(rows).encode()).hexdigest()[:16] if rows else ""


def changed_shards(project: Project, corpus: Artifact) -> str:
    """How the local tar shards differ in name or size from those of a published corpus; "" if they do not.

    Shards of equal name and size may still differ; their time tells (`glance`).
    """
    if project.config.corpus.kind != "webdataset":
        return ""
    table = pd.read_parquet(corpus.file("shards.parquet"), columns=["path", "bytes"])
    recorded = Counter(
        (Path(row.path).name, int(row.bytes)) for row in table.itertuples() if not _REMOTE.match(str(row.path))
    )
    tars = {path.resolve(): path for path in _local(project, project.config.corpus.shards) if path.suffix == ".tar"}
    today = Counter((path.name, path.stat().st_size) for path in tars.values())
    new, gone = (today - recorded).total(), (recorded - today).total()
    return f"{new} shards are new or of another size, {gone} are gone" if new or gone else ""


def of_corpus(project: Project, _key: str) -> Iterator[str]:
    """Shards, tables of URLs, and folders of ready embeddings and indices."""
    corpus = project.config.corpus
    yield from (*corpus.shards, *corpus.urls)
    yield from (str(folder) for folder in (corpus.embeddings, corpus.indices) if folder is not None)


def of_checkpoint(project: Project, _key: str) -> Iterator[str]:
    """The checkpoint's file or folder; a tag of open_clip names no file."""
    yield from (project.config.encoder.pretrained,) if project.config.encoder.pretrained else ()


def of_labelled_images(project: Project, slug: str) -> Iterator[str]:
    """The folder or manifest of a domain's labelled images."""
    evaluation = project.domain(slug).evaluation
    if evaluation is not None and evaluation.path is not None:
        yield str(evaluation.path)


def unlisted(_project: Project, _key: str) -> tuple[str, ...]:
    """Of stages whose files are too many to be listed at every look: their step compares them."""
    return ()


def _local(project: Project, names: Iterable[str]) -> Iterator[Path]:
    """The files that local paths, folders and patterns name, each in a stable order."""
    for name in names:
        if _REMOTE.match(name):
            continue
        path = root = project.path.parent / name
        # Only what does not exist as it stands is a pattern: a folder may be called `[2024]`.
        while not root.exists():
            root = root.parent
        for found in [path] if root == path else sorted(root.glob(str(path.relative_to(root)))):
            yield from _files_below(found) if found.is_dir() else (found,)


def _files_below(folder: Path) -> Iterator[Path]:
    for directory, below, files in os.walk(folder):
        below.sort()
        yield from (Path(directory, name) for name in sorted(files))
