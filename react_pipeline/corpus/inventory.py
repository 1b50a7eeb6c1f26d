"""The inventory of a corpus' shards (`shards.parquet`): where each is, and what identifies its
content.

Does not belong here: which shards make a corpus (`corpus`), reading them (`shards`), remembering
digests (`store`).
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from react_pipeline.corpus.progress_lines import progress
from react_pipeline.corpus.servers import Identity, RemoteShard, each, identify
from react_pipeline.corpus.shards import ShardLocation
from react_pipeline.settings import StorageConfig, is_url
from react_pipeline.store import (
    CACHE,
    Artifact,
    ChangedSource,
    Store,
    remembered_sha256,
    sha256_of,
    write_atomically,
)

SHARDS_FILE = "shards.parquet"


def take_stock(store: Store | None, locations: Sequence[ShardLocation]) -> pd.DataFrame:
    """Return one row a shard: shard (its number), path (or URL), bytes, sha256, and of a remote one
    storage.

    `sha256` is the digest of a local shard's bytes. A remote shard is not read: there it is the
    digest of what its server reports (see `servers.Identity`). In both cases equal digests mean
    equal shards. The store remembers those of local shards; with None nothing is remembered.

    Raises:
        CorpusError: Naming the shard that cannot be read.
        SourceUnavailable: Naming the shard whose server does not answer.
    """
    identities = list(_identities(store, locations))
    columns = {
        "shard": np.arange(len(locations), dtype=np.int32),
        "path": list(map(str, locations)),
        "bytes": [identity.size_bytes for identity in identities],
        "sha256": [identity.digest for identity in identities],
        "storage": list(map(_storage_of, locations)),
    }
    return pd.DataFrame(columns).astype({"bytes": "int64"})


def _identities(store: Store | None, locations: Sequence[ShardLocation]) -> Iterator[Identity]:
    remote = each(identify, [shard for shard in locations if isinstance(shard, RemoteShard)])
    for location in progress(locations, "checking shards", "shard", len(locations)):
        if isinstance(location, RemoteShard):
            yield next(remote)
        else:
            digest = remembered_sha256(store.root, location) if store else sha256_of(location)
            yield Identity(location.stat().st_size, "", digest)


def take_stock_of(staging: Path, shards: Sequence[Path]) -> dict[str, Any]:
    """Write `shards.parquet` of shards that are part of the artifact; the counts that go
    with it.
    """
    table = take_stock(None, shards)
    table["path"] = [Path(path).relative_to(staging).as_posix() for path in table["path"]]
    return _write(table, staging)


def write_stock(table: pd.DataFrame, staging: Path) -> dict[str, Any]:
    """Write `shards.parquet`, and return the counts that go with it.

    Paths of local shards are relative to the innermost folder that holds all of them, which is the
    count `root`: equal shards elsewhere give an equal file.
    """
    folders = [str(Path(path).parent) for path in table["path"] if not is_url(path)]
    root = os.path.commonpath(folders) if folders else ""
    paths = [path if is_url(path) else os.path.relpath(path, root) for path in table["path"]]
    return _write(table.assign(path=paths), staging) | ({"root": root} if root else {})


def _write(table: pd.DataFrame, staging: Path) -> dict[str, Any]:
    table.to_parquet(staging / SHARDS_FILE, index=False)
    return {"shards": len(table), "bytes": int(table["bytes"].sum())}


def shard_paths(artifact: Artifact) -> list[ShardLocation]:
    """Return where each shard is: an absolute path, or a `RemoteShard`; the position in the list is
    the shard's number.
    """
    table = pd.read_parquet(artifact.file(SHARDS_FILE))
    folder = artifact.path / artifact.counts.get("root", "")
    entries = zip(table["path"], table["storage"], strict=True)
    locations: list[ShardLocation] = []
    for path, storage in place_of(artifact.root, artifact.fingerprint, recorded=entries):
        if is_url(path):
            locations.append(RemoteShard(path, StorageConfig.model_validate_json(storage)))
        else:
            locations.append(folder / path)
    return locations


def remember_locations(artifact: Artifact, locations: Sequence[ShardLocation]) -> None:
    """Keep where the shards of a corpus are now, for `shard_paths`."""
    remember_place(artifact, [(str(location), _storage_of(location)) for location in locations])


def _storage_of(location: ShardLocation) -> str | None:
    if isinstance(location, Path):
        return None
    return location.storage.model_dump_json(exclude_defaults=True)


def remember_place(artifact: Artifact, place: Any) -> None:
    """Keep where the files of a corpus are now (JSON): they may move, and the artifact never
    changes.
    """
    write_atomically(_place_file(artifact.root, artifact.fingerprint), json.dumps(place))


def place_of(root: Path, corpus: str, recorded: Any) -> Any:
    """Return where the files of the corpus of a fingerprint are now; `recorded` if they have not
    moved since.
    """
    file = _place_file(root, corpus)
    return json.loads(file.read_text()) if file.exists() else recorded


def check_shards(store: Store, artifact: Artifact) -> list[ShardLocation]:
    """Return `shard_paths` after checking that every shard is still the one that was published.

    Raises:
        ChangedSource: Naming the shard that is missing or has changed.
        SourceUnavailable: Naming the shard whose server does not answer.
    """
    locations = shard_paths(artifact)
    recorded = dict(
        zip(locations, pd.read_parquet(artifact.file(SHARDS_FILE))["sha256"], strict=True)
    )
    # Shards of the artifact are verified as its files.
    outside = [
        shard
        for shard in locations
        if isinstance(shard, RemoteShard) or not shard.is_relative_to(artifact.path)
    ]
    for shard in outside:
        if isinstance(shard, Path) and not shard.is_file():
            raise _changed(shard, "is gone")
    for shard, identity in zip(outside, _identities(store, outside), strict=True):
        if identity.digest != recorded[shard]:
            raise _changed(shard, "has changed since `corpus` was materialized")
    return locations


def _changed(shard: ShardLocation, how: str) -> ChangedSource:
    return ChangedSource(f"{shard}: {how}; put it back, or materialize `corpus` again")


def _place_file(root: Path, corpus: str) -> Path:
    return root / CACHE / "corpus_places" / f"{corpus}.json"
