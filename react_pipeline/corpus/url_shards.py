"""Tar shards of copied or downloaded pairs: written from images in memory, or taken over from an earlier corpus.

Does not belong here: which pairs there are (`url_corpus`, `image_files`), reading shards (`shards`).
"""

import tarfile
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from react_pipeline.corpus.shards import add_member, add_pair, index_shard, open_shard, read_member
from react_pipeline.store import Artifact, link_or_copy

SHARDS = "shards"
"""Folder of the artifact."""
PAIRS_PER_SHARD = 10_000

PackedSample = tuple[str, bytes, bytes, dict[str, str]]
"""Key, image, caption (UTF-8), and what else is known of a pair."""


def take_over(earlier: Artifact, wanted: set[str], directory: Path) -> tuple[int, set[str]]:
    """Bring over the pairs of an earlier corpus that are still wanted; whole shards become links to the same bytes.

    Returns:
        The number of shards, and the keys that they hold.
    """
    had: set[str] = set()
    shards = 0
    for name in sorted(name for name in earlier.manifest["files"] if name.startswith(f"{SHARDS}/")):
        path = earlier.file(name)
        index = index_shard(path)
        kept = [sample for sample in index.samples if sample.key in wanted]
        if not kept:
            continue
        target = shard_file(directory, shards)
        if len(kept) == len(index.samples):
            link_or_copy(path, target)
        else:
            with open_shard(path) as file, _new_tar(target) as tar:
                for sample in kept:
                    for extension, member in sample.members.items():
                        add_member(tar, f"{sample.key}.{extension}", read_member(file, member))
        had.update(sample.key for sample in kept)
        shards += 1
    return shards, had


def pack(samples: Iterator[PackedSample], directory: Path, first: int) -> int:
    """Write pairs into shards from number `first` on; gives how many."""
    shards = 0
    while block := next(samples, None):
        target = shard_file(directory, first + shards)
        with _new_tar(target) as tar:
            for sample in chain([block], islice(samples, PAIRS_PER_SHARD - 1)):
                add_pair(tar, *sample)
        shards += 1
    return shards


def _new_tar(path: Path) -> tarfile.TarFile:
    return tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)


def shard_file(directory: Path, number: int) -> Path:
    """The file of a shard, by its number."""
    return directory / f"{number:05d}.tar"
