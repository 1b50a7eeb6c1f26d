"""The corpus: which tar shards the image-text pairs come from.

Belongs here: finding shards and taking stock of them, so that a changed shard gives another corpus. Does not belong
here: reading a tar (`shards`), decoding and embedding (`embed`), making the demo's shards (`demo.corpus`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from react_pipeline.artifacts import Artifact
from react_pipeline.demo import installed_versions
from react_pipeline.durable import sha256_of, write_atomically
from react_pipeline.errors import CorpusError
from react_pipeline.lineage import Project, resolve
from react_pipeline.shards import CAPTION_EXTENSION, IMAGE_EXTENSIONS, index_shard
from react_pipeline.store import Store

SHARDS_FILE = "shards.parquet"
_CACHE = ".cache"


def publish_corpus(project: Project) -> Artifact:
    """Publish the artifact `corpus`: `shards.parquet` with shard, path, bytes and sha256; for the demo its tars too.

    The user's shards stay where they are. Their identity is name, size and digest in order, so a corpus that is moved
    to another folder stays the same corpus.

    Raises:
        CorpusError: If a pattern finds no tar, a shard is damaged, or no shard holds a pair.
    """
    if project.config.corpus.kind == "demo":
        inputs = resolve(project, "corpus", content={"demo": installed_versions()})
        return project.store.build(inputs, lambda staging: _write_demo(project, staging))
    paths = find_shards(project.config.corpus.shards)
    table = _inventory(project.store, paths)
    content = [[Path(row.path).name, row.bytes, row.sha256] for row in table.itertuples()]

    def write(staging: Path) -> dict[str, Any]:
        pairs = _count_pairs(paths)
        table.to_parquet(staging / SHARDS_FILE, index=False)
        return {"shards": len(table), "bytes": int(table["bytes"].sum()), "pairs": pairs}

    artifact = project.store.build(resolve(project, "corpus", content=content), write)
    write_atomically(_located(artifact), json.dumps([str(path) for path in paths]))
    return artifact


def find_shards(patterns: Iterable[str]) -> list[Path]:
    """The tar files of absolute paths and patterns: in the order of the patterns, sorted in each, each file once.

    Raises:
        CorpusError: Naming the pattern that finds no tar file.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        path = Path(pattern)
        root = path
        # Only what does not exist as it stands is a pattern: a folder may be called `[2024]`.
        while not root.exists():
            root = root.parent
        matches = [root] if root == path else root.glob(str(path.relative_to(root)))
        tars = sorted(match for match in matches if match.suffix == ".tar" and match.is_file())
        if not tars:
            raise CorpusError(
                f"corpus.shards: {pattern!r} finds no .tar file; give tar files or patterns such as data/*.tar"
            )
        for tar in tars:
            found.setdefault(tar.resolve(), tar)
    return list(found.values())


def shard_paths(artifact: Artifact) -> list[Path]:
    """The absolute path of each shard; the position in the list is the shard's number."""
    table = pd.read_parquet(artifact.file(SHARDS_FILE))
    located = _located(artifact)
    # A corpus may have moved since; the artifact holds the paths at which it was first published.
    paths = json.loads(located.read_text()) if located.exists() else table["path"]
    return [artifact.path / path for path in paths]


def check_shards(store: Store, artifact: Artifact) -> list[Path]:
    """As `shard_paths`, after checking that every shard is still the one that was published.

    A shard of unchanged size and modification time is not read again.

    Raises:
        CorpusError: Naming the shard that is missing or has changed.
    """
    paths = shard_paths(artifact)
    recorded = pd.read_parquet(artifact.file(SHARDS_FILE))
    if not all(path.is_relative_to(artifact.path) for path in paths):
        for path, sha256 in zip(paths, recorded["sha256"], strict=True):
            if not path.is_file() or _digest(store, path) != sha256:
                state = "has changed since `corpus` was materialized" if path.is_file() else "is gone"
                raise CorpusError(f"{path}: {state}; put it back, or materialize `corpus` again")
    return paths


def _write_demo(project: Project, staging: Path) -> dict[str, Any]:
    from react_pipeline.demo.corpus import build_corpus

    counts = build_corpus(staging, project.config.embedding.workers)
    table = _inventory(None, sorted(staging.rglob("*.tar")))
    table["path"] = [Path(path).relative_to(staging).as_posix() for path in table["path"]]
    table.to_parquet(staging / SHARDS_FILE, index=False)
    return {**counts, "shards": len(table), "bytes": int(table["bytes"].sum())}


def _inventory(store: Store | None, paths: list[Path]) -> pd.DataFrame:
    rows = []
    for number, path in enumerate(tqdm(paths, desc="checking shards", unit="shard", disable=None)):
        rows.append(
            (number, str(path), path.stat().st_size, sha256_of(path) if store is None else _digest(store, path))
        )
    table = pd.DataFrame(rows, columns=["shard", "path", "bytes", "sha256"])
    return table.astype({"shard": "int32", "bytes": "int64"})


def _count_pairs(paths: list[Path]) -> int:
    pairs, extensions = 0, set()
    for path in tqdm(paths, desc="indexing shards", unit="shard", disable=None):
        index = index_shard(path)
        pairs += index.pairs
        extensions |= index.extensions
    if not pairs:
        raise CorpusError(
            f"corpus.shards: no pair in {len(paths)} shards: a sample needs an image ({', '.join(IMAGE_EXTENSIONS)}) "
            f"and a caption ({CAPTION_EXTENSION}) under one key; extensions found: {sorted(extensions) or 'none'}"
        )
    return pairs


def _digest(store: Store, path: Path) -> str:
    """SHA-256 of a shard, remembered by path, size and modification time: shards are gigabytes."""
    stat = path.stat()
    seen: dict[str, Any] = {"path": str(path.resolve()), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    name = hashlib.sha256(seen["path"].encode()).hexdigest()[:16]
    cached = store.root / _CACHE / "shards" / f"{name}.json"
    try:
        entry = json.loads(cached.read_text())
        if {key: entry[key] for key in seen} == seen:
            return str(entry["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror or error})") from error
    write_atomically(cached, json.dumps({**seen, "sha256": digest}))
    return digest


def _located(artifact: Artifact) -> Path:
    """Where the shards' present paths are kept, outside the artifact, which never changes."""
    store = artifact.path.parents[2]
    return store / _CACHE / "shard_paths" / f"{artifact.fingerprint}.json"
