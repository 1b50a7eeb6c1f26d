"""Collecting: the image and caption of chosen corpus rows, copied into training shards.

Belongs here: the form of the training shards, their writer and their reader. Does not belong here: which rows are
chosen (`retrieval`), where images come from (`image_source`), or what is done with a pair (`training`).

A shard is a webdataset tar of `KEY.jpg|png|webp`, `KEY.txt` and `KEY.json` ({"row", "class"}) in this order; KEY is the
row number of the corpus, so no name of a source is ever used as a path.
"""

import json
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from react_pipeline.corpus.image_source import ImageSource
from react_pipeline.corpus.images import extension_of
from react_pipeline.corpus.shards import add_member
from react_pipeline.store import Artifact, CorruptArtifact

SHARDS = "shards"


class Collected(NamedTuple):
    """The result of collecting pairs.

    Attributes:
        rows: Of the pairs in the shards (N,), in their order.
        failed: Columns row, class, reason: pairs whose image is not available, in the order of the corpus.
    """

    shards: int
    rows: NDArray[np.int64]
    failed: pd.DataFrame


def collect_pairs(pairs: pd.DataFrame, source: ImageSource, directory: Path, shard_pairs: int) -> Collected:
    """Copy pairs into training shards in `directory`, in the order of the corpus.

    The caption written is the one that was embedded (cleaned and cut by the corpus' rules), so that the shards agree
    with `pairs.parquet`; only the image is fetched. Equal pairs give equal bytes.

    Args:
        pairs: Columns row, class, and those that the source needs.
        directory: Gets `00000.tar`, ...; made if missing.
        shard_pairs: Pairs per tar; the last may hold fewer.

    Raises:
        CorpusError: If a tar is gone, or an image's bytes are not those that were embedded.
    """
    directory.mkdir(parents=True, exist_ok=True)
    images = iter(tqdm(source.fetch(pairs), total=len(pairs), desc="collecting pairs", disable=None, leave=False))
    # Ten million pairs: a number each, and no objects.
    collected, shards = array("q"), 0
    while first := next(images, None):
        with tarfile.open(directory / f"{shards:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for pair, image in chain([first], islice(images, shard_pairs - 1)):
                _add_sample(tar, pair, image)
                collected.append(int(pair.row))
        shards += 1
    rows = np.array(collected, np.int64)
    missing = pairs.loc[~pairs["row"].isin(rows), ["row", "class"]].sort_values("row", kind="stable")
    reasons = [source.failed.get(int(row), "unknown") for row in missing["row"]]
    return Collected(shards, rows, missing.assign(reason=reasons))


@dataclass(frozen=True)
class LocatedPair:
    """A pair of a retrieved or control set, its image by its byte range in a shard.

    Attributes:
        row: Row number of the corpus.
        offset: Of the image's first byte in it.
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
    described: dict[str, Any] = {"row": int(pair.row), "class": pair.label}
    if len(classes := list(getattr(pair, "classes", ()))):
        described["classes"] = classes
    about = json.dumps(described, ensure_ascii=False)
    for suffix, data in ((extension_of(image), image), ("txt", pair.caption.encode()), ("json", about.encode())):
        add_member(tar, f"{int(pair.row):09d}.{suffix}", data)


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    data = b"" if file is None else file.read()
    if file is None or len(data) != member.size:
        raise tarfile.ReadError(f"member {member.name} is cut")
    return data
