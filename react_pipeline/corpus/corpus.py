"""The artifact `corpus`: where each shard is, and what identifies its content, so that a changed
shard gives another corpus; and pairs that a kind copies into tar shards of it.

Does not belong here: any kind (`kinds`), reading a tar (`shards`), remembering digests (`store`).
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.corpus.image_source import ImageSource
from react_pipeline.corpus.kinds import Skipped, Webdataset
from react_pipeline.corpus.progress_lines import progress
from react_pipeline.corpus.remote import Identity, find_remote, identify
from react_pipeline.corpus.shards import (
    IMAGE_EXTENSIONS,
    SHARDS,
    PackedSample,
    ShardLocation,
    index_shard,
    pack,
)
from react_pipeline.lineage import resolve
from react_pipeline.project import Project, find_files
from react_pipeline.settings import is_url
from react_pipeline.store import (
    CACHE,
    Artifact,
    ChangedSource,
    CorpusError,
    Scratch,
    Store,
    remembered_sha256,
    sha256_of,
    write_atomically,
)

POOL = f"{CACHE}/images"
"""Where images that came over the net are kept, for all domains of a store. The sets that were made
of them hold their own copies."""
SHARDS_FILE, SKIPPED_FILE = "shards.parquet", "skipped.parquet"
MAX_NAMES = 1_000
"""Skipped samples that are named, for each reason; all are counted."""
PARALLEL_REQUESTS = 16
"""Answers of servers that are awaited at once."""
_FIELD = "corpus.shards"


def publish_corpus(project: Project) -> Artifact:
    """Publish the artifact `corpus`, as its kind does.

    Raises:
        CorpusError: If its files are missing, unreadable or damaged, or hold no pair; it is not
            tried again.
        SourceUnavailable: If a server does not answer.
    """
    try:
        return project.config.corpus.publish(project)
    except (
        FileNotFoundError,
        NotADirectoryError,
        IsADirectoryError,
        PermissionError,
    ) as error:
        name = str(error.filename or "")
        # Of the store it may pass, such as when another process prunes.
        if not name or Path(name).is_relative_to(project.store.root):
            raise
        raise CorpusError(
            f"{name}: {error.strerror}; put it there, readable, or correct what names it"
        ) from error


def publish_pairs(
    project: Project, content: Any, pairs: Iterable[PackedSample | Skipped]
) -> Artifact:
    """Publish the artifact `corpus` from pairs: key, image file, caption (UTF-8), and metadata.

    Args:
        content: The identity of the images and captions, as JSON, such as names and digests.
        pairs: Read only if no artifact of this identity is there. What is `Skipped` is counted by
            its reason, and the first ones of each are in `skipped.parquet` (source, reason).

    Raises:
        CorpusError: If there is no pair.
    """

    def write(staging: Path, _: Scratch) -> dict[str, Any]:
        reasons = Counter[str]()
        named: list[tuple[str, str]] = []

        def usable() -> Iterator[PackedSample]:
            for pair in pairs:
                if not isinstance(pair, Skipped):
                    yield pair
                    continue
                reasons[pair.reason] += 1
                if reasons[pair.reason] <= MAX_NAMES:
                    named.append((pair.source, pair.reason))

        (staging / SHARDS).mkdir()
        if not (count := pack(progress(usable(), "copying pairs", "pair"), staging / SHARDS)):
            raise CorpusError(
                f"corpus: no pair in its {project.config.corpus.noun}"
                + "".join(f"; skipped: {source}, {reason}" for source, reason in named[:1])
            )
        if named:
            table = pd.DataFrame(named, columns=["source", "reason"])
            table.to_parquet(staging / SKIPPED_FILE, index=False)
        tars = sorted((staging / SHARDS).iterdir())
        table = _inventory(None, tars).assign(path=[f"{SHARDS}/{tar.name}" for tar in tars])
        return {**_write_inventory(table, staging), "pairs": count, "skipped": dict(reasons)}

    return project.store.build(resolve(project, "corpus", content=content), write)


def publish_tar_corpus(project: Project, corpus: Webdataset) -> Artifact:
    """Publish the artifact `corpus` of kind `webdataset`: `shards.parquet` with number,
    path (or URL), bytes and sha256 of each shard.

    The user's shards stay where they are. Their identity is name, size and digest in order, so a
    corpus that is moved to another folder stays the same corpus. Their headers are read when they
    are embedded. A remote shard is not read: its digest is that of what its server reports.

    Raises:
        CorpusError: If a pattern finds no tar, or no local shard holds a pair.
        SourceUnavailable: If a server does not answer.
    """
    locations = locate_shards(corpus)
    table = _inventory(project.store, locations)
    names = table.assign(path=table["path"].str.rpartition("/")[2])

    def write(staging: Path, _: Scratch) -> dict[str, Any]:
        local = [location for location in locations if isinstance(location, Path)]
        if len(local) == len(locations):
            _require_pair(local, corpus.caption_extension)
        # Paths relative to `root`: equal shards elsewhere give an equal file.
        root = os.path.commonpath([path.parent for path in local]) if local else ""
        paths = [path if is_url(path) else os.path.relpath(path, root) for path in table["path"]]
        written = _write_inventory(table.assign(path=paths), staging)
        return {**written, **({"root": root} if root else {})}

    inputs = resolve(project, "corpus", content=names.to_numpy().tolist())
    artifact = project.store.build(inputs, write)
    # They may move, and the artifact never changes.
    write_atomically(_place_file(artifact), json.dumps(table["path"].tolist()))
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
            locations |= {shard: shard for shard in find_remote(pattern, _FIELD)}
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


def _inventory(store: Store | None, locations: Sequence[ShardLocation]) -> pd.DataFrame:
    """Return path (or URL), bytes and sha256 of each shard."""
    table = pd.DataFrame(_identities(store, locations), columns=["bytes", "sha256"])
    table.insert(0, "path", list(map(str, locations)))
    return table


def _identities(store: Store | None, locations: Sequence[ShardLocation]) -> Iterator[Identity]:
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        remote = pool.map(identify, [one for one in locations if isinstance(one, str)])
        for location in progress(locations, "checking shards", "shard", len(locations)):
            if isinstance(location, str):
                yield next(remote)
            else:
                digest = remembered_sha256(store.root, location) if store else sha256_of(location)
                yield Identity(location.stat().st_size, digest)


def _write_inventory(table: pd.DataFrame, staging: Path) -> dict[str, Any]:
    table.rename_axis("shard").reset_index().to_parquet(staging / SHARDS_FILE, index=False)
    return {"shards": len(table), "bytes": int(table["bytes"].sum())}


def shard_digests(artifact: Artifact) -> dict[ShardLocation, str]:
    """Return the digest of each shard by its place, an absolute path or a URL. Their order is that
    of their numbers.
    """
    table = pd.read_parquet(artifact.file(SHARDS_FILE))
    paths = table["path"].tolist()
    if (moved := _place_file(artifact)).exists():
        paths = json.loads(moved.read_text())
    folder = artifact.path / artifact.counts.get("root", "")
    places = (path if is_url(path) else folder / path for path in paths)
    return dict(zip(places, table["sha256"], strict=True))


def checked_shards(store: Store, artifact: Artifact) -> dict[ShardLocation, str]:
    """Return `shard_digests` after checking that every shard is still the one that was published.

    Raises:
        ChangedSource: Naming the shard that is missing or has changed.
        SourceUnavailable: Naming the shard whose server does not answer.
    """
    shards = shard_digests(artifact)
    # Shards of the artifact are verified as its files.
    outside = [one for one in shards if artifact.path not in Path(str(one)).parents]
    found = _identities(store, outside)
    for shard in outside:
        gone = isinstance(shard, Path) and not shard.is_file()
        if gone or next(found).digest != shards[shard]:
            raise ChangedSource(
                f"{shard}: is gone or has changed since `corpus` was materialized; put it back, or "
                "materialize `corpus` again"
            )
    return shards


def _place_file(artifact: Artifact) -> Path:
    return artifact.root / ".places" / f"{artifact.fingerprint}.json"


def open_source(project: Project, corpus: Artifact) -> ImageSource:
    """Return the source of a corpus' images."""
    return project.config.corpus.open_images(corpus, project.store.root / POOL)


def count_pairs(corpus: Artifact) -> int | None:
    """Return the pairs of a published corpus (some kinds count them by source); None of tars, which
    are read when they are embedded.
    """
    counts = corpus.counts.items()
    pairs = [count for name, count in counts if name.partition("/")[0] == "pairs"]
    return sum(pairs) if pairs else None
