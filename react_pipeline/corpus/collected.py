"""Collected pairs: a retrieved or control set as trainings read it, with nothing in memory that ten million would fill.

Belongs here: the mapped table of the pairs, their captions and images by position. Does not belong here: the form of
the files (`collect`), how images are prepared for a model.
"""

from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from react_pipeline.corpus.collect import SHARDS, TABLE
from react_pipeline.corpus.images import decode_image
from react_pipeline.store import Artifact, CorruptArtifact

MAX_PIXELS = 1 << 30
"""The configured cap was applied when the pair was embedded; this one only guards memory."""


class CollectedPair(NamedTuple):
    """One pair: row number of the corpus, the image's file, its caption, and the class it was retrieved for."""

    row: int
    image: bytes
    caption: str
    label: str


class CollectedPairs:
    """The pairs of a retrieved or control set, in the order of their shards.

    The columns are views of one mapped file, which all processes share; pickled, it is the artifact alone.

    Attributes:
        rows: Row number of each pair in the corpus (N,).
        captions: The different captions (U,), as they were embedded.
        caption_ids: Position (N,) in `captions` of each pair.
        classes: The different classes (C,) that pairs were retrieved for; the empty string in a control set.
        class_ids: Position (N,) in `classes` of each pair.
    """

    def __init__(self, artifact: Artifact) -> None:
        """Map the table.

        Raises:
            CorruptArtifact: If it cannot be read, its length differs from the manifest, or it does not fit the shards.
        """
        self._artifact = artifact
        tars = (name for name in artifact.manifest["files"] if name.startswith(f"{SHARDS}/") and name.endswith(".tar"))
        self._paths = [artifact.file(name) for name in sorted(tars)]
        path = artifact.file(f"{SHARDS}/{TABLE}")
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
            self.rows, self._shards, self._offsets, self._sizes = (
                table.column(name).to_numpy() for name in ("row", "shard", "offset", "bytes")
            )
            self.captions, self.caption_ids = _texts(table.column("caption"))
            classes, self.class_ids = _texts(table.column("class"))
            self.classes: list[str] = classes.to_pylist()
            sizes = np.array([path.stat().st_size for path in self._paths], np.int64)
        except (pa.ArrowException, OSError, KeyError, AttributeError) as error:
            raise self._corrupt(f"{path} ({error})") from error
        if len(self) != artifact.counts["pairs"]:
            raise self._corrupt(f"{path} ({len(self)} pairs, {artifact.counts['pairs']} recorded)")
        if len(self) and (self._shards.min() < 0 or self._shards.max() >= len(sizes) or self._offsets.min() < 0):
            raise self._corrupt(f"{path} (it names shards that are not there)")
        ends = np.zeros(len(sizes), np.int64)
        np.maximum.at(ends, self._shards, self._offsets + self._sizes)
        if (ends > sizes).any():
            raise self._corrupt(f"{self._paths[int((ends > sizes).argmax())]} (shorter than its table says)")

    def __reduce__(self) -> tuple[type[Self], tuple[Artifact]]:
        return type(self), (self._artifact,)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> CollectedPair:
        caption = self.captions[int(self.caption_ids[position])].as_py()
        label = self.classes[self.class_ids[position]]
        return CollectedPair(int(self.rows[position]), self.encoded(position), caption, label)

    def __iter__(self) -> Iterator[CollectedPair]:
        return (self[position] for position in range(len(self)))

    def encoded(self, position: int) -> bytes:
        """The bytes of one image's file.

        Raises:
            CorruptArtifact: If its shard is gone or was cut.
        """
        path, size = self._paths[self._shards[position]], int(self._sizes[position])
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(int(self._offsets[position]))
                data = file.read(size)
        except OSError as error:
            raise self._corrupt(f"{path} ({error.strerror or error})") from error
        if len(data) != size:
            raise self._corrupt(f"{path} (it ends within an image)")
        return data

    def decoded(self, position: int, *, lazy: bool = False) -> Image.Image:
        """One image, RGB; `lazy` as in `images.decode_image`."""
        return decode_image(self.encoded(position), MAX_PIXELS, lazy=lazy)

    def _corrupt(self, what: str) -> CorruptArtifact:
        stage, key = self._artifact.stage, self._artifact.key
        return CorruptArtifact(f"{what}: not what was published; put it back, or rematerialize `{stage}` for {key!r}")


def _texts(column: pa.DictionaryArray) -> tuple[pa.Array, NDArray[np.int32]]:
    return column.dictionary, column.indices.to_numpy()
