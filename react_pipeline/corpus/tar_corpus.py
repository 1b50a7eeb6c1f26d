"""A corpus of the user's tar shards: finding them, and publishing what there is, so that a changed
shard gives another corpus.

Does not belong here: digests and places of shards (`inventory`), reading a tar (`shards`).
"""

import io
from pathlib import Path
from typing import Any

from react_pipeline.corpus.inventory import remember_locations, take_stock, write_stock
from react_pipeline.corpus.kinds.webdataset import Webdataset
from react_pipeline.corpus.progress_lines import progress
from react_pipeline.corpus.servers import RemoteShard, each, server_of
from react_pipeline.corpus.shards import IMAGE_EXTENSIONS, ShardLocation, index_shard, open_shard
from react_pipeline.lineage import resolve
from react_pipeline.project import Project, find_files
from react_pipeline.settings import is_url
from react_pipeline.store import Artifact, CorpusError, Scratch

_FIELD = "corpus.shards"
_END_BYTES = 1024
"""A tar ends with two empty blocks."""
_PROBED_SHARDS = 8


def publish_tar_corpus(project: Project, corpus: Webdataset) -> Artifact:
    """Publish the artifact `corpus` of kind `webdataset`: `shards.parquet` with shard, path, bytes
    and sha256 (see `inventory.take_stock`).

    The user's shards stay where they are. Their identity is name, size and digest in order, so a
    corpus that is moved to another folder stays the same corpus.

    Raises:
        CorpusError: If a pattern finds no tar, a shard is damaged, or no shard holds a pair.
        SourceUnavailable: If a server does not answer.
    """
    locations = locate_shards(corpus)
    table = take_stock(project.store, locations)
    content: list[list[Any]] = [
        [row.path.rpartition("/")[2], row.bytes, row.sha256] for row in table.itertuples()
    ]

    def write(staging: Path, _: Scratch) -> dict[str, Any]:
        counts = _checked(locations, corpus.caption_extension)
        return {**write_stock(table, staging), **counts}

    artifact = project.store.build(resolve(project, "corpus", content=content), write)
    remember_locations(artifact, locations)
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
            shards = server_of(pattern).find(pattern, corpus.storage, _FIELD)
            locations |= {shard: shard for shard in shards}
        else:
            files = find_files([pattern], (".tar",), _FIELD)
            locations |= {path.resolve(): path for path in files if path.resolve() not in locations}
    return list(locations.values())


def _checked(locations: list[ShardLocation], caption_extension: str) -> dict[str, int]:
    """Refuse damaged shards and a corpus without pairs; how many pairs there are, if all are local.

    To count pairs, a remote shard would have to be read at thousands of places, and embedding reads
    it anyway. Of those only the ends are read, which are missing where a shard is truncated, and
    the first ones until a pair is found.
    """
    local = [location for location in locations if isinstance(location, Path)]
    remote = [location for location in locations if isinstance(location, RemoteShard)]
    for _ in progress(each(_check_whole, remote), "checking ends", "shard", len(remote)):
        pass
    pairs = 0
    extensions = set[str]()
    probed: list[ShardLocation] = [*local, *remote[:_PROBED_SHARDS]]
    for location in progress(probed, "indexing shards", "shard", len(probed)):
        if pairs and isinstance(location, RemoteShard):
            break
        index = index_shard(location)
        pairs += index.pairs(caption_extension)
        extensions |= index.extensions
    if not pairs:
        raise CorpusError(
            f"corpus.shards: no pair in {len(probed)} shards: a sample needs an image "
            f"({', '.join(IMAGE_EXTENSIONS)}) and a caption ({caption_extension}) under one key; "
            f"extensions found: {sorted(extensions) or 'none'}"
        )
    return {} if remote else {"pairs": pairs}


def _check_whole(shard: RemoteShard) -> None:
    with open_shard(shard) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - _END_BYTES))
        if size % 512 or size < _END_BYTES or file.read().strip(b"\0"):
            raise CorpusError(
                f"{shard}: does not end like a tar ({size:,} bytes): truncated, or not a tar; "
                "upload it again, or take it out of `corpus.shards`"
            )
