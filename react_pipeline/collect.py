"""Collecting: the image and caption of chosen corpus rows, copied from the corpus' tars into training shards.

Belongs here: range reads with their check, the form of the training shards, and their reader. Does not belong here:
which rows are chosen (`retrieve`), or what is done with a pair (`customize`).

A shard is a webdataset tar of `KEY.jpg|png|webp`, `KEY.txt` and `KEY.json` ({"row", "class"}) in this order; KEY is the
row number of the corpus, so no name of a source is ever used as a path.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
from tqdm import tqdm

from react_pipeline.artifacts import Artifact
from react_pipeline.errors import CorpusError, CorruptArtifact

SHARDS = "shards"
LOCATION = ["shard", "image_path", "image_offset", "image_bytes", "image_sha256", "caption"]
"""Columns of the corpus' metadata that tell where a pair lies and what it is."""


def collect_pairs(rows: pd.DataFrame, shard_paths: Sequence[Path], directory: Path, shard_pairs: int) -> int:
    """Copy pairs into `directory`, in the order in which they lie in the corpus.

    The caption written is the one that was embedded (cleaned and cut by the corpus' rules), so that the shards agree
    with `pairs.parquet`; only the image is read from the tar, and its digest is checked. Equal rows give equal bytes.

    Args:
        rows: Columns row, class, and those of `LOCATION`.
        shard_paths: The corpus' tars; `shard` is a position in this list.
        directory: Gets `00000.tar`, ...; made if missing.
        shard_pairs: Pairs per tar.

    Returns:
        Number of tars written.

    Raises:
        CorpusError: If a tar is gone, or an image's bytes are not those that were embedded.
    """
    directory.mkdir(parents=True, exist_ok=True)
    pairs = read_images_by_range(rows, shard_paths)
    progress = iter(tqdm(pairs, total=len(rows), desc="collecting pairs", disable=None, leave=False))
    shards = -(-len(rows) // shard_pairs)
    for number in range(shards):
        with tarfile.open(directory / f"{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for pair, image in islice(progress, shard_pairs):
                _add_sample(tar, pair, image)
    return shards


def read_images_by_range(rows: pd.DataFrame, shard_paths: Sequence[Path]) -> Iterator[tuple[Any, bytes]]:
    """Read the image of each row, shard by shard and forward within a shard, each digest checked.

    Yields:
        The row as a named tuple (its class under `label`) and the bytes of its image.

    Raises:
        CorpusError: Naming shard and key.
    """
    ordered = rows.rename(columns={"class": "label"}).sort_values(["shard", "image_offset", "row"], kind="stable")
    for shard, inside in ordered.groupby("shard", sort=True):
        path = shard_paths[int(shard)]
        try:
            with path.open("rb") as file:
                for pair in inside.itertuples(index=False):
                    yield pair, _read_range(file, pair, path)
        except OSError as error:
            raise CorpusError(
                f"{path}: cannot be read ({error.strerror}); put the shard back, or rematerialize `corpus`"
            ) from error


@dataclass(frozen=True)
class LocatedPair:
    """A pair of a retrieved or control set, its image by where its bytes lie in a shard.

    Attributes:
        row: Row number of the corpus.
        path: The shard.
        offset: Of the image's first byte in it.
        size_bytes: Of the image.
        caption: As it was embedded.
        label: Class it was retrieved for; empty in a control set.
    """

    row: int
    path: Path
    offset: int
    size_bytes: int
    caption: str
    label: str

    def read(self) -> bytes:
        """The image's file as it was in the corpus."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size_bytes)


def locate_pairs(artifact: Artifact) -> Iterator[LocatedPair]:
    """List a retrieved or control set in the order of its shards, reading everything but the images.

    Raises:
        CorruptArtifact: If a shard is cut, out of order, or the number of pairs differs from the manifest.
    """
    count = 0
    for name in sorted(name for name in artifact.manifest["files"] if name.startswith(f"{SHARDS}/")):
        path = artifact.file(name)
        try:
            with tarfile.open(path, "r:") as tar:
                while (image := tar.next()) is not None:
                    text, about = tar.next(), tar.next()
                    key = image.name.partition(".")[0]
                    if text is None or about is None or (text.name, about.name) != (f"{key}.txt", f"{key}.json"):
                        raise tarfile.ReadError(f"sample {key} is not image, text, json")
                    described = json.loads(_member(tar, about))
                    caption, label = _member(tar, text).decode(), str(described["class"])
                    yield LocatedPair(int(described["row"]), path, image.offset_data, image.size, caption, label)
                    count += 1
        except (tarfile.TarError, OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptArtifact(f"{path}: {error}; rematerialize `{artifact.stage}` for {artifact.key!r}") from error
    if count != artifact.counts["pairs"]:
        raise CorruptArtifact(
            f"{artifact.path}: {count} pairs in its shards, {artifact.counts['pairs']} recorded; "
            f"rematerialize `{artifact.stage}` for {artifact.key!r}"
        )


def read_pairs(artifact: Artifact) -> Iterator[tuple[int, bytes, str, str]]:
    """Read a retrieved or control set: (row, image bytes, caption, class) in the order of the shards.

    Raises:
        CorruptArtifact: As `locate_pairs`.
    """
    for pair in locate_pairs(artifact):
        yield pair.row, pair.read(), pair.caption, pair.label


def _add_sample(tar: tarfile.TarFile, pair: Any, image: bytes) -> None:
    about = json.dumps({"row": int(pair.row), "class": pair.label}, ensure_ascii=False)
    for suffix, data in ((_suffix(image), image), ("txt", pair.caption.encode()), ("json", about.encode())):
        # TarInfo's own defaults (time 0, owner 0, mode 644) make the bytes reproducible.
        member = tarfile.TarInfo(f"{int(pair.row):09d}.{suffix}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


def _read_range(file: BinaryIO, pair: Any, path: Path) -> bytes:
    file.seek(int(pair.image_offset))
    data = file.read(int(pair.image_bytes))
    if hashlib.sha256(data).hexdigest() != pair.image_sha256:
        raise CorpusError(
            f"{path}: the image of {pair.image_path!r} is not the one that was embedded; the shard has changed: "
            "put it back, or rematerialize `corpus` and what follows it"
        )
    return data


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    data = b"" if file is None else file.read()
    if file is None or len(data) != member.size:
        raise tarfile.ReadError(f"member {member.name} is cut")
    return data


def _suffix(image: bytes) -> str:
    # By content: the member's name in the corpus is not trusted. Decoders look at the content too.
    if image.startswith(b"\x89PNG"):
        return "png"
    return "webp" if image[:4] == b"RIFF" and image[8:12] == b"WEBP" else "jpg"
