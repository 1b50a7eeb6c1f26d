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
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from react_pipeline.corpus.images import decode_image
from react_pipeline.corpus.shards import SHARDS, add_pair, new_tar, runs, shard_file
from react_pipeline.store import Artifact, CorruptArtifact

TABLE = "table.arrow"
"""The table's file, next to the tars."""
MEMORY_PIXELS = 1 << 30
"""The configured cap was applied when the pair was embedded; this one only guards memory."""


def vectors_file(side: str, draw: str = "") -> str:
    """Return the name of a set's vectors of `image` or `text`."""
    return f"{draw}/{side}_vectors.npy" if draw else f"{side}_vectors.npy"


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
    bar = tqdm(images, total=count, desc="collecting pairs", disable=None, leave=False)
    # Ten million pairs: numbers and Arrow's buffers, and no objects.
    numbers = {name: array("q") for name in ("row", "shard", "offset", "bytes")}
    texts: dict[str, list[pa.Array]] = {
        name: [pa.array([], pa.large_string())] for name in ("caption", "class")
    }
    for shard, run in enumerate(runs(iter(bar), shard_pairs)):
        captions = []
        labels = []
        with new_tar(shard_file(directory, shard)) as tar:
            for pair, image in run:
                offset = tar.offset + tarfile.BLOCKSIZE  # behind the image's own header
                row = int(pair.row)
                for name, number in zip(numbers, (row, shard, offset, len(image)), strict=True):
                    numbers[name].append(number)
                captions.append(pair.caption)
                labels.append(str(pair.label))
                metadata = {"row": row, "class": pair.label}
                if classes := list(getattr(pair, "classes", ())):
                    metadata["classes"] = classes
                add_pair(tar, f"{row:09d}", image, pair.caption.encode(), metadata)
        texts["caption"].append(pa.array(captions, pa.large_string()))
        texts["class"].append(pa.array(labels, pa.large_string()))
    columns = {name: pa.array(np.frombuffer(column, np.int64)) for name, column in numbers.items()}
    columns |= {name: pa.concat_arrays(parts).dictionary_encode() for name, parts in texts.items()}
    write_table(directory, columns)
    return np.array(numbers["row"], np.int64)


def write_table(directory: Path, columns: Mapping[str, pa.Array]) -> None:
    """Write the table of the shards in `directory`: its columns in the order of the pairs, see
    above.
    """
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    with (
        pa.OSFile(str(directory / TABLE), "wb") as file,
        pa.ipc.new_file(file, batch.schema) as writer,
    ):
        writer.write_batch(batch)


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
        shards = f"{draw}/{SHARDS}" if draw else SHARDS
        tars = (
            name
            for name in artifact.manifest["files"]
            if name.startswith(f"{shards}/") and name.endswith(".tar")
        )
        self._paths = [artifact.file(name) for name in sorted(tars)]
        # Verified by its digest, as the tars are.
        path = artifact.file(f"{shards}/{TABLE}")
        table = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        self.rows, self._shards, self._offsets, self._sizes = (
            table.column(name).to_numpy() for name in ("row", "shard", "offset", "bytes")
        )
        self.captions, self.caption_ids = _texts(table.column("caption"))
        classes, self.class_ids = _texts(table.column("class"))
        self.classes: list[str] = classes.to_pylist()

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

    def vectors(self, side: str) -> NDArray[np.float32]:
        """Return the unit vectors (N, D) of `image` or `text`, by the encoder that retrieves."""
        path = self._artifact.file(vectors_file(side, self._draw))
        vectors: NDArray[np.float32] = np.load(path).astype(np.float32)
        return vectors

    def encoded(self, position: int) -> bytes:
        """Return the bytes of one image's file.

        Raises:
            CorruptArtifact: If its shard is gone or was cut.
        """
        path = self._paths[self._shards[position]]
        size = int(self._sizes[position])
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
        """Decode one image, RGB; `lazy` as in `images.decode_image`."""
        return decode_image(self.encoded(position), MEMORY_PIXELS, lazy=lazy)

    def _corrupt(self, what: str) -> CorruptArtifact:
        artifact = self._artifact
        return CorruptArtifact(
            f"{what}: not what was published; put it back, or rematerialize `{artifact.stage}` for "
            f"{artifact.key!r}"
        )


def _texts(column: pa.DictionaryArray) -> tuple[pa.Array, NDArray[np.int32]]:
    return column.dictionary, column.indices.to_numpy()
