"""The inventory of a corpus' shards (`shards.parquet`): where each is, and what identifies its
content.

Does not belong here: which shards make a corpus (`corpus`), reading them (`shards`), remembering
digests (`store`).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.corpus.progress_lines import progress
from react_pipeline.corpus.servers import RemoteShard, each, identify
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
    """One row a shard: shard (its number), path (or URL), bytes, sha256; for remote ones tag and
    storage too.

    `sha256` is the digest of a local shard's bytes. A remote shard is not read: there it is the
    digest of what its server reports (size and `tag`, see `servers.Identity`). In both cases equal
    digests mean equal shards. The store remembers those of local shards; with None nothing is
    remembered.

    Raises:
        CorpusError: Naming the shard that cannot be read.
        SourceUnavailable: Naming the shard whose server does not answer.
    """
    rows: list[dict[str, Any]] = []
    remote = [location for location in locations if isinstance(location, RemoteShard)]
    identities = each(identify, remote)
    for number, location in enumerate(
        progress(locations, "checking shards", "shard", len(locations))
    ):
        row: dict[str, Any] = {"shard": number, "path": str(location)}
        if isinstance(location, RemoteShard):
            identity = next(identities)
            row |= {"bytes": identity.size_bytes, "sha256": identity.digest, "tag": identity.tag}
            row["storage"] = _storage_of(location)
        else:
            row["bytes"] = location.stat().st_size
            row["sha256"] = (
                sha256_of(location) if store is None else remembered_sha256(store.root, location)
            )
        rows.append(row)
    columns = ["shard", "path", "bytes", "sha256", *(("tag", "storage") if remote else ())]
    return pd.DataFrame(rows, columns=columns).astype({"shard": "int32", "bytes": "int64"})


def take_stock_of(staging: Path, shards: Sequence[Path]) -> dict[str, int]:
    """Write `shards.parquet` of shards that are part of the artifact; the counts that go
    with it.
    """
    table = take_stock(None, shards)
    table["path"] = [Path(path).relative_to(staging).as_posix() for path in table["path"]]
    return write_stock(table, staging)


def write_stock(table: pd.DataFrame, staging: Path) -> dict[str, int]:
    """Write `shards.parquet`, and return the counts that go with it."""
    table.to_parquet(staging / SHARDS_FILE, index=False)
    return {"shards": len(table), "bytes": int(table["bytes"].sum())}


def shard_paths(artifact: Artifact) -> list[ShardLocation]:
    """Where each shard is: an absolute path, or a `RemoteShard`; the position in the list is the
    shard's number.
    """
    table = pd.read_parquet(artifact.file(SHARDS_FILE))
    entries = zip(table["path"], table.get("storage", [None] * len(table)), strict=True)
    locations: list[ShardLocation] = []
    for path, storage in place_of(artifact.root, artifact.fingerprint, recorded=entries):
        if is_url(path):
            locations.append(RemoteShard(path, StorageConfig.model_validate_json(storage)))
        else:
            locations.append(artifact.path / path)
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
    """Where the files of the corpus of a fingerprint are now; `recorded` if they have not moved
    since.
    """
    file = _place_file(root, corpus)
    return json.loads(file.read_text()) if file.exists() else recorded


def check_shards(store: Store, artifact: Artifact) -> list[ShardLocation]:
    """As `shard_paths`, after checking that every shard is still the one that was published.

    Raises:
        ChangedSource: Naming the shard that is missing or has changed.
        SourceUnavailable: Naming the shard whose server does not answer.
    """
    locations = shard_paths(artifact)
    recorded = pd.read_parquet(artifact.file(SHARDS_FILE))
    remote = [location for location in locations if isinstance(location, RemoteShard)]
    identities = each(identify, remote)
    for location, sha256 in zip(locations, recorded["sha256"], strict=True):
        if isinstance(location, RemoteShard):
            present = True
            same = next(identities).digest == sha256
        elif location.is_relative_to(artifact.path):  # verified as a file of the artifact
            continue
        else:
            present = location.is_file()
            same = present and remembered_sha256(store.root, location) == sha256
        if not same:
            state = "has changed since `corpus` was materialized" if present else "is gone"
            raise ChangedSource(f"{location}: {state}; put it back, or materialize `corpus` again")
    return locations


def _place_file(root: Path, corpus: str) -> Path:
    return root / CACHE / "corpus_places" / f"{corpus}.json"
