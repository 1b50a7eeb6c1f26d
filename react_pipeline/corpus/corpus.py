"""The artifact `corpus`: where each shard is, and what identifies its content, so that a changed
shard gives another corpus; and pairs that a kind copies into tar shards of it.

Does not belong here: any kind (`kinds`), reading a tar (`shards`), remembering digests (`store`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.corpus.image_source import ImageSource
from react_pipeline.corpus.kinds import Skipped, Webdataset
from react_pipeline.corpus.progress_lines import progress
from react_pipeline.corpus.remote import Identity, identify
from react_pipeline.corpus.shards import (
    IMAGE_EXTENSIONS,
    SHARDS,
    PackedSample,
    ShardLocation,
    index_shard,
    pack,
)
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.settings import CorpusConfig
from react_pipeline.store import (
    CACHE,
    Artifact,
    ChangedSource,
    CorpusError,
    Scratch,
    Store,
    remembered_sha256,
)

POOL = f"{CACHE}/images"
"""Where images that came over the net are kept, for all domains of a store. The sets that were made
of them hold their own copies."""
SHARDS_FILE, SKIPPED_FILE = "shards.parquet", "skipped.parquet"
MAX_NAMES = 1_000
"""Skipped samples that are named, for each reason; all are counted."""
PARALLEL_REQUESTS = 16
"""Answers of servers that are awaited at once."""


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
        pairs: Read only if no artifact of this identity is there. `Skipped` samples are counted by
            reason; the first of each are listed in `skipped.parquet` (source, reason).

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
                f"corpus: no pair in its {project.config.corpus.noun}; "
                + project.config.corpus.next_step
                + "".join(f"; skipped: {source}, {reason}" for source, reason in named[:1])
            )
        if named:
            table = pd.DataFrame(named, columns=["source", "reason"])
            table.to_parquet(staging / SKIPPED_FILE, index=False)
        sizes = [tar.stat().st_size for tar in (staging / SHARDS).iterdir()]
        counts = {"shards": len(sizes), "bytes": sum(sizes)}
        return {**counts, "pairs": count, "skipped": dict(reasons)}

    return project.store.build(resolve(project, "corpus", content=content), write)


def publish_tar_corpus(project: Project, corpus: Webdataset) -> Artifact:
    """Publish the artifact `corpus` of kind `webdataset`: `shards.parquet` with number, name, bytes
    and sha256 of each shard.

    The user's shards stay where they are, which the configuration alone says: a corpus that is
    moved to another folder stays the same corpus. Their headers are read when they are embedded. A
    remote shard is not read: its digest is that of what its server reports.

    Raises:
        CorpusError: If a pattern finds no tar, or no local shard holds a pair.
        SourceUnavailable: If a server does not answer.
    """
    locations = corpus.sources()
    table = pd.DataFrame(_identities(project.store, locations), columns=["bytes", "sha256"])
    table.insert(0, "name", list(map(_name, locations)))

    def write(staging: Path, _: Scratch) -> dict[str, Any]:
        local = [location for location in locations if isinstance(location, Path)]
        if len(local) == len(locations):
            _require_pair(local, corpus.caption_extension)
        table.rename_axis("shard").reset_index().to_parquet(staging / SHARDS_FILE, index=False)
        return {"shards": len(table), "bytes": int(table["bytes"].sum())}

    inputs = resolve(project, "corpus", content=table.to_numpy().tolist())
    return project.store.build(inputs, write)


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


def _name(location: ShardLocation) -> str:
    return str(location).rpartition("/")[2]


def _identities(store: Store, locations: Sequence[ShardLocation]) -> Iterator[Identity]:
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        remote = pool.map(identify, [one for one in locations if isinstance(one, str)])
        for location in progress(locations, "checking shards", "shard", len(locations)):
            if isinstance(location, str):
                yield next(remote)
            else:
                digest = remembered_sha256(store.root, location)
                yield Identity(location.stat().st_size, digest)


def shard_digests(kind: CorpusConfig, artifact: Artifact) -> dict[ShardLocation, str]:
    """Return the digest of each shard of a published corpus by its place, in the order of their
    numbers: tars of the artifact, or those that the configuration names today. Shards that were
    added since are left out.

    Raises:
        ChangedSource: Naming a shard that is gone.
    """
    if not isinstance(kind, Webdataset):
        files = artifact.manifest["files"]
        names = sorted(name for name in files if name.startswith(f"{SHARDS}/"))
        return {artifact.path / name: files[name]["sha256"] for name in names}
    table = pd.read_parquet(artifact.file(SHARDS_FILE))
    rest = iter(_located(kind, artifact.fingerprint))
    shards: dict[ShardLocation, str] = {}
    for name, size, digest in table[["name", "bytes", "sha256"]].itertuples(index=False):
        if (shard := next((one for one in rest if _may_be(one, name, size)), None)) is None:
            raise ChangedSource(_changed(name))
        shards[shard] = digest
    return shards


@lru_cache(maxsize=4)
def _located(kind: Webdataset, _fingerprint: str) -> Sequence[ShardLocation]:
    """Ask buckets once in a process, not for every set of pairs."""
    return kind.sources()


def _may_be(location: ShardLocation, name: str, size: int) -> bool:
    if isinstance(location, str) or _name(location) != name:
        return _name(location) == name
    with suppress(FileNotFoundError):
        return location.stat().st_size == size
    return False


def checked_shards(
    kind: CorpusConfig, store: Store, artifact: Artifact
) -> dict[ShardLocation, str]:
    """Return `shard_digests` after checking that every shard is still the one that was published.

    Raises:
        ChangedSource: Naming the shard that is missing or has changed.
        SourceUnavailable: Naming the shard whose server does not answer.
    """
    shards = shard_digests(kind, artifact)
    if isinstance(kind, Webdataset):  # else they are verified as files of the artifact
        found = _identities(store, list(shards))
        for (shard, digest), identity in zip(shards.items(), found, strict=True):
            if identity.digest != digest:
                raise ChangedSource(_changed(shard))
    return shards


def _changed(shard: ShardLocation) -> str:
    return (
        f"{shard}: is gone or has changed since `corpus` was materialized; put it back, or "
        "materialize `corpus` again"
    )


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
