"""Reader of tar shards in clip-benchmark's layout; members are read by their offsets, nothing is
extracted.

That is `ROOT/<data set>/<split>/N.tar` with `nshards.txt`, and `classnames.txt` next to the splits.
A sample is an image and `.cls` (a class id) or, in a multilabel set, `.npy` (a row of zeros and
ones).
"""

import io
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from react_pipeline.corpus import Member, Sample, ShardIndex, index_shard
from react_pipeline.labelled import Unavailable, lines_of
from react_pipeline.store import MAX_IMAGE_BYTES, CorpusError, InputError, open_regular

from .datasets import Dataset
from .images import LabelledImages, labelled_images
from .listing import read_lines
from .names import join_names
from .sources import open_once

LAYOUT = "webdataset"
_MOST_LABEL_BYTES = 1 << 20


@dataclass(frozen=True)
class TarSource:
    """Members of uncompressed tars: for each image its tar, offset and size in bytes."""

    shards: tuple[Path, ...]
    members: tuple[tuple[int, int, int], ...]

    def read(self, position: int) -> bytes:
        """The bytes of the member.

        Raises:
            InputError: If the tar is gone or ends before the member does.
        """
        shard, offset, size = self.members[position]
        return _read_at(self.shards[shard], Member(offset, size))

    def checksum(self, position: int) -> tuple[int, int]:
        """Size and CRC-32; the member is read."""
        data = self.read(position)
        return len(data), zlib.crc32(data)


def read_webdataset(root: Path, entry: Dataset, split: str) -> LabelledImages | None:
    """Read a split of tar shards; None if there are none.

    Raises:
        Unavailable: If `nshards.txt` or `classnames.txt` is missing.
        InputError: If a shard is missing or damaged, a sample lacks image or label, or classes do
            not match.
    """
    folder = root / entry.name / split
    if not (folder.is_dir() and any(folder.glob("*.tar"))):
        return None
    shards = _shards(folder)
    names = read_lines(root / entry.name / "classnames.txt")
    order, notes = join_names(entry, names, root / entry.name / "classnames.txt", root)
    locations = []
    members = []
    labels = list[Any]()
    problems = []
    seen: dict[str, str] = {}
    for number, path in enumerate(shards):
        for sample in _index(path).samples:
            location = f"{path.relative_to(root).as_posix()}@{sample.key}"
            label = _label(path, sample, entry)
            if sample.image is None or label is None:
                problems.append(
                    f"{location}: has no {'image' if sample.image is None else 'valid label'}"
                )
                continue
            if seen.setdefault(sample.key, location) != location:
                problems.append(f"{location}: repeats the key of {seen[sample.key]}")
            locations.append(location)
            members.append((number, sample.image.offset, sample.image.size_bytes))
            labels.append(label)
    if problems:
        raise InputError(f"{folder}: {len(problems)} bad samples\n{lines_of(problems)}")
    if not locations:
        raise InputError(f"{folder}: its shards hold no sample")
    source = TarSource(tuple(shards), tuple(members))
    return labelled_images(entry, split, locations, np.array(labels), order, LAYOUT, source, notes)


def _shards(folder: Path) -> list[Path]:
    lines = read_lines(folder / "nshards.txt")
    if len(lines) != 1 or not lines[0].isascii() or not lines[0].isdigit() or len(lines[0]) > 6:
        raise InputError(f"{folder / 'nshards.txt'}: must hold one number, that of the shards")
    shards = [folder / f"{number}.tar" for number in range(int(lines[0]))]
    missing = [path.name for path in shards if not path.is_file()]
    if missing:
        raise InputError(
            f"{folder}: nshards.txt says {len(shards)}, but these are missing\n{lines_of(missing)}"
        )
    if not shards:
        raise Unavailable(f"{folder / 'nshards.txt'} says that there are no shards")
    return shards


def _index(path: Path) -> ShardIndex:
    try:
        index = index_shard(path)
    except CorpusError as error:
        # Its text ends with advice for a corpus.
        raise InputError(f"{str(error).split(';')[0]}; copy the shard again") from error
    if index.refused:
        raise InputError(
            f"{path}: members "
            f"refused\n{lines_of([f'{name}: {why}' for name, why in index.refused])}"
        )
    return index


def _label(path: Path, sample: Sample, entry: Dataset) -> Any:
    member = sample.members.get("npy" if entry.multilabel else "cls")
    if member is None or member.size_bytes > _MOST_LABEL_BYTES:
        return None
    data = _read_at(path, member)
    try:
        if not entry.multilabel:
            label = int(data.decode("ascii"))
            return label if 0 <= label < entry.num_classes else None
        row = np.load(io.BytesIO(data), allow_pickle=False)
    # numpy raises nearly anything for hostile bytes.
    except Exception:
        return None
    valid = row.shape == (entry.num_classes,) and np.isin(row, (0, 1)).all()
    return row.astype(np.uint8) if valid else None


def _open(path: Path) -> IO[bytes]:
    return open_regular(path)


def _read_at(path: Path, member: Member) -> bytes:
    if member.size_bytes > MAX_IMAGE_BYTES:
        raise InputError(
            f"{path}: a member of {member.size_bytes:,} bytes is too large for an image"
        )
    try:
        file: IO[bytes] = open_once(path, _open)
        # Threads share the file, so its position must not be used.
        data = os.pread(file.fileno(), member.size_bytes, member.offset)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(data) != member.size_bytes:
        raise InputError(f"{path}: ends within a member; copy the shard again")
    return data
