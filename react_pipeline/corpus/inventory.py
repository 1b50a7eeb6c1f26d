"""The inventory of a corpus' shards (`shards.parquet`): where each is, and what identifies its
content, so that a changed shard gives another corpus.

Does not belong here: reading a tar (`shards`), remembering digests (`store`).
"""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from react_pipeline.corpus.kinds import Webdataset
from react_pipeline.corpus.progress_lines import progress
from react_pipeline.corpus.remote import Identity, RemoteShard, find_remote, identify
from react_pipeline.corpus.shards import IMAGE_EXTENSIONS, ShardLocation, index_shard
from react_pipeline.lineage import resolve
from react_pipeline.project import Project, find_files
from react_pipeline.settings import StorageConfig, is_url
from react_pipeline.store import (
    Artifact,
    ChangedSource,
    CorpusError,
    Scratch,
    Store,
    remembered_sha256,
    sha256_of,
    write_atomically,
)

SHARDS_FILE = "shards.parquet"
_FIELD = "corpus.shards"
PARALLEL_REQUESTS = 16
"""Answers of servers that are awaited at once."""


def publish_tar_corpus(project: Project, corpus: Webdataset) -> Artifact:
    """Publish the artifact `corpus` of kind `webdataset`: `shards.parquet` with shard, path, bytes
    and sha256 (see `take_stock`).

    The user's shards stay where they are. Their identity is name, size and digest in order, so a
    corpus that is moved to another folder stays the same corpus. Their headers are read when they
    are embedded.

    Raises:
        CorpusError: If a pattern finds no tar, or no local shard holds a pair.
        SourceUnavailable: If a server does not answer.
    """
    locations = locate_shards(corpus)
    table = take_stock(project.store, locations)
    content: list[list[Any]] = [
        [row.path.rpartition("/")[2], row.bytes, row.sha256] for row in table.itertuples()
    ]

    def write(staging: Path, _: Scratch) -> dict[str, Any]:
        local = [location for location in locations if isinstance(location, Path)]
        if len(local) == len(locations):
            _require_pair(local, corpus.caption_extension)
        root = os.path.commonpath([path.parent for path in local]) if local else ""
        written = write_stock(table, staging, root)
        return {**written, **({"root": root} if root else {})}

    artifact = project.store.build(resolve(project, "corpus", content=content), write)
    # They may move, and the artifact never changes.
    write_atomically(_place_file(artifact), json.dumps(list(map(str, locations))))
    return artifact


def locate_shards(corpus: Webdataset) -> list[ShardLocation]:
    """Return every shard that `corpus.shards` names, as `find_files` orders them; only buckets are
    asked.

    Raises:
        CorpusError: Naming the pattern that finds no tar.
        SourceUnavailable: If an object store does not answer.
    """
    locations: dict[ShardLocation, ShardLocation] = {}
    for pattern in corpus.shards:
        if is_url(pattern):
            shards = find_remote(pattern, corpus.storage, _FIELD)
            locations |= {shard: shard for shard in shards}
        else:
            for path in find_files([pattern], (".tar",), _FIELD):
                locations.setdefault(path.resolve(), path)
    return list(locations.values())


def _require_pair(shards: Sequence[Path], caption_extension: str) -> None:
    """Refuse shards without a pair, most likely by their extensions; the first pair is enough."""
    extensions = set[str]()
    for shard in shards:
        index = index_shard(shard)
        if index.pairs(caption_extension):
            return
        extensions.update(*(sample.members for sample in index.samples))
    raise CorpusError(
        f"corpus.shards: no pair in {len(shards)} shards: a sample needs an image "
        f"({', '.join(IMAGE_EXTENSIONS)}) and a caption ({caption_extension}) under one key; "
        f"extensions found: {sorted(extensions) or 'none'}"
    )


def take_stock(store: Store | None, locations: Sequence[ShardLocation]) -> pd.DataFrame:
    """Return one row a shard: shard (its number), path (or URL), bytes, sha256.

    `sha256` is the digest of a local shard's bytes. A remote shard is not read: there it is the
    digest of what its server reports (see `remote.Identity`). In both cases equal digests mean
    equal shards. The store remembers those of local shards; with None nothing is remembered.

    Raises:
        CorpusError: Naming the shard that cannot be read.
        SourceUnavailable: Naming the shard whose server does not answer.
    """
    table = pd.DataFrame(_identities(store, locations), columns=["bytes", "sha256"])
    table.insert(0, "shard", np.arange(len(locations), dtype=np.int32))
    table.insert(1, "path", list(map(str, locations)))
    return table


def _identities(store: Store | None, locations: Sequence[ShardLocation]) -> Iterator[Identity]:
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        remote = pool.map(identify, [one for one in locations if isinstance(one, RemoteShard)])
        for location in progress(locations, "checking shards", "shard", len(locations)):
            if isinstance(location, RemoteShard):
                yield next(remote)
            else:
                digest = remembered_sha256(store.root, location) if store else sha256_of(location)
                yield Identity(location.stat().st_size, digest)


def write_stock(table: pd.DataFrame, staging: Path, root: str) -> dict[str, Any]:
    """Write `shards.parquet`, and return the counts that go with it.

    Paths of local shards are relative to `root`: equal shards elsewhere give an equal file.
    """
    paths = [path if is_url(path) else os.path.relpath(path, root) for path in table["path"]]
    table.assign(path=paths).to_parquet(staging / SHARDS_FILE, index=False)
    return {"shards": len(table), "bytes": int(table["bytes"].sum())}


def shard_paths(artifact: Artifact, storage: StorageConfig) -> list[ShardLocation]:
    """Return where each shard is: an absolute path, or a `RemoteShard`, which `storage` reaches;
    the position in the list is the shard's number.
    """
    paths = pd.read_parquet(artifact.file(SHARDS_FILE))["path"].tolist()
    if (moved := _place_file(artifact)).exists():
        paths = json.loads(moved.read_text())
    folder = artifact.path / artifact.counts.get("root", "")
    return [RemoteShard(path, storage) if is_url(path) else folder / path for path in paths]


def check_shards(store: Store, artifact: Artifact, storage: StorageConfig) -> list[ShardLocation]:
    """Return `shard_paths` after checking that every shard is still the one that was published.

    Raises:
        ChangedSource: Naming the shard that is missing or has changed.
        SourceUnavailable: Naming the shard whose server does not answer.
    """
    locations = shard_paths(artifact, storage)
    # Shards of the artifact are verified as its files.
    outside = [one for one in locations if artifact.path not in Path(str(one)).parents]
    digests = pd.read_parquet(artifact.file(SHARDS_FILE))["sha256"]
    found = _identities(store, outside)
    for shard, recorded in zip(outside, digests, strict=False):
        gone = isinstance(shard, Path) and not shard.is_file()
        if gone or next(found).digest != recorded:
            raise ChangedSource(
                f"{shard}: is gone or has changed since `corpus` was materialized; put it back, or "
                "materialize `corpus` again"
            )
    return locations


def _place_file(artifact: Artifact) -> Path:
    return artifact.root / ".places" / f"{artifact.fingerprint}.json"
