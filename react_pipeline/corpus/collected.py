"""Collected pairs: the image and caption of chosen corpus rows, copied into training shards, and
read back.

A shard is a webdataset tar of `KEY.jpg|png|webp`, `KEY.txt` and `KEY.json` ({"row", "class"}) in
this order; KEY is the row number of the corpus, so no name of a source is ever used as a path. The
table is an Arrow file of one record batch, so that processes map it and no shard is ever walked:
`row`, `shard` (number of the tar), `offset` and `bytes` of the image in it, `caption` and `class`,
both as a dictionary of the different texts. Does not belong here: which rows are chosen
(`retrieval`), where images come from (`image_source`), how they are prepared for a model.
"""

import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from react_pipeline.corpus.images import MANY_PIXELS, decode_image
from react_pipeline.corpus.progress_lines import progress
from react_pipeline.corpus.shards import (
    SHARDS,
    Member,
    add_pair,
    new_tar,
    open_shard,
    read_member,
    runs,
)
from react_pipeline.store import Artifact, CorpusError, CorruptArtifact

TABLE = "table.arrow"
"""The table's file, next to the tars."""
_TEXTS = ("caption", "class")
_COLUMNS = pa.schema(
    [(name, pa.int64()) for name in ("row", "shard", "offset", "bytes")]
    + [(name, pa.large_string()) for name in _TEXTS]
)


def vectors_file(side: str, draw: str = "") -> str:
    """Return the name of a set's vectors of `image` or `text`."""
    return (PurePosixPath(draw) / f"{side}_vectors.npy").as_posix()


def collect_pairs(
    images: Iterable[tuple[Any, bytes]], directory: Path, shard_pairs: int, count: int
) -> NDArray[np.int64]:
    """Copy pairs into training shards in `directory`, in the order given.

    The caption written is the one that was embedded (cleaned and cut by the corpus' rules), so that
    the shards agree with `pairs.parquet`; only the image is fetched. Equal pairs give equal bytes.

    Args:
        images: Rows with row, caption and label, and each one's image, of `ImageSource.fetch`.
        directory: Gets `00000.tar`, ... and the table; made if missing.
        count: How many there are at the most.

    Returns:
        The rows that were collected.
    """
    directory.mkdir(parents=True, exist_ok=True)
    bar = progress(images, "collecting pairs", "pair", count)
    shards = [_COLUMNS.empty_table()]
    for number, run in enumerate(runs(bar, shard_pairs)):
        collected = []
        with new_tar(directory, number) as tar:
            for pair, image in run:
                offset = tar.offset + tarfile.BLOCKSIZE  # behind the image's own header
                row, label = int(pair.row), str(pair.label)
                collected.append((row, number, offset, len(image), pair.caption, label))
                metadata = {"row": row, "class": pair.label}
                if classes := list(getattr(pair, "classes", ())):
                    metadata["classes"] = classes
                add_pair(tar, f"{row:09d}", image, pair.caption.encode(), metadata)
        # Ten million pairs are held as Arrow's buffers, not as objects.
        shards.append(pa.table(list(zip(*collected, strict=True)), schema=_COLUMNS))
    table = pa.concat_tables(shards)
    columns = {name: table[name].combine_chunks() for name in _COLUMNS.names}
    columns |= {name: columns[name].dictionary_encode() for name in _TEXTS}
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    with pa.ipc.new_file(str(directory / TABLE), batch.schema) as writer:
        writer.write_batch(batch)
    return columns["row"].to_numpy()


class CollectedPair(NamedTuple):
    """One pair: row number of the corpus, the image's file, its caption, and the class it was
    retrieved for.
    """

    row: int
    image: bytes
    caption: str
    label: str


class CollectedPairs:
    """The pairs of a retrieved or control set, in the order of their shards.

    The columns are views of one mapped file, which all processes share; pickled, it is the artifact
    alone.

    Attributes:
        rows: Row number of each pair in the corpus (N,).
        captions: The different captions (U,), as they were embedded.
        caption_ids: Position (N,) in `captions` of each pair.
        classes: The different classes (C,) that pairs were retrieved for; the empty string in a
            control set.
        class_ids: Position (N,) in `classes` of each pair.
    """

    def __init__(self, artifact: Artifact, draw: str = "") -> None:
        """Map the table; `draw` is a folder of the artifact, of the draw of a further seed.

        Raises:
            CorruptArtifact: If its files differ from the manifest.
        """
        self._artifact = artifact
        self._draw = draw
        shards = PurePosixPath(draw) / SHARDS
        # Verified by its digest, as the tars are.
        path = artifact.file(f"{shards}/{TABLE}")
        table = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        self.rows, self._shards, self._offsets, self._sizes = (
            table.column(name).to_numpy() for name in _COLUMNS.names[:4]
        )
        tars = int(self._shards.max(initial=-1)) + 1
        self._paths = [artifact.file(f"{shards}/{number:05d}.tar") for number in range(tars)]
        captions, classes = (table.column(name) for name in _TEXTS)
        self.captions: pa.Array = captions.dictionary
        self.caption_ids: NDArray[np.int32] = captions.indices.to_numpy()
        self.classes: list[str] = classes.dictionary.to_pylist()
        self.class_ids: NDArray[np.int32] = classes.indices.to_numpy()

    def __reduce__(self) -> tuple[type[Self], tuple[Artifact, str]]:
        return type(self), (self._artifact, self._draw)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> CollectedPair:
        caption = self.captions[int(self.caption_ids[position])].as_py()
        label = self.classes[self.class_ids[position]]
        return CollectedPair(int(self.rows[position]), self.encoded(position), caption, label)

    def __iter__(self) -> Iterator[CollectedPair]:
        return (self[position] for position in range(len(self)))

    def vectors(self, side: str) -> NDArray[np.float16]:
        """Memory-map unit vectors (N, D) of `image` or `text`, by the encoder that retrieves."""
        path = self._artifact.file(vectors_file(side, self._draw))
        vectors: NDArray[np.float16] = np.load(path, mmap_mode="c")
        return vectors

    def encoded(self, position: int) -> bytes:
        """Return the bytes of one image's file.

        Raises:
            CorruptArtifact: If its shard is gone or was cut.
        """
        path = self._paths[self._shards[position]]
        image = Member(int(self._offsets[position]), int(self._sizes[position]))
        try:
            with open_shard(path) as file:
                return read_member(file, image)
        except CorpusError as error:
            artifact = self._artifact
            raise CorruptArtifact(
                f"{path}: not what was published ({error}); put it back, or rematerialize "
                f"`{artifact.stage}` for {artifact.key!r}"
            ) from error

    def decoded(self, position: int, *, lazy: bool = False) -> Image.Image:
        """Decode one image, RGB; `lazy` as in `images.decode_image`."""
        return decode_image(self.encoded(position), MANY_PIXELS, lazy=lazy)
