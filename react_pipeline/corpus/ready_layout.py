"""Ready embeddings on disk: which files belong together, and whether they can be used at all.

Belongs here: the layout that clip-retrieval writes and LAION publishes, and its checks. Does not belong here: whether
the configured encoder made them and what is published (`ready_embeddings`), reading rows (`vectors`).

    img_emb/img_emb_N.npy   text_emb/text_emb_N.npy   (rows, D), float16 or float32, unit length
    metadata/metadata_N.parquet                       as many rows, with a column of URLs and one of captions

N is any number, written the same way in the three names. Rows are counted in the order of the sorted names, which is
the order in which autofaiss reads them, so that ready FAISS indices fit. Shapes: N rows, D width.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from react_pipeline.store import CorpusError

SIDES = ("img_emb", "text_emb")
METADATA = "metadata"
UNIT_NORM_TOLERANCE = 0.01
"""Half precision keeps a length to about 0.001."""

_CHUNK_ROWS = 65_536
_WAY_OUT = "copy it again from where it came, or take the three files of its number away"


@dataclass(frozen=True)
class Part:
    """The three files of one number, by their names below the folder.

    Attributes:
        number: As it is written in the names.
        image: `img_emb/img_emb_N.npy`.
        text: `text_emb/text_emb_N.npy`.
        metadata: `metadata/metadata_N.parquet`.
        rows: Of each of them.
    """

    number: str
    image: str
    text: str
    metadata: str
    rows: int = 0
    dimension: int = 0

    @property
    def names(self) -> tuple[str, str, str]:
        """All three."""
        return self.image, self.text, self.metadata


def find_parts(folder: Path, url_column: str, caption_column: str) -> list[Part]:
    """Find the parts of a folder by names and headers; no vector is read.

    Raises:
        CorpusError: Naming the file that is missing, cut, of another form, or does not fit the others of its number.
    """
    if not folder.is_dir():
        raise CorpusError(f"corpus.embeddings: {folder} is no folder; it must hold img_emb/, text_emb/ and metadata/")
    numbers = {side: _numbers(folder, side, "npy") for side in SIDES} | {
        METADATA: _numbers(folder, METADATA, "parquet")
    }
    if not numbers["img_emb"]:
        raise CorpusError(f"{folder / 'img_emb'}: no file img_emb_N.npy in it; see corpus.embeddings")
    if not numbers["text_emb"]:
        raise CorpusError(
            f"{folder / 'text_emb'}: no file text_emb_N.npy in it. Some collections publish image vectors only, with "
            "which captions cannot be searched (t2t), nor can it be proved that the configured encoder made them: "
            "download text_emb/ too, or embed the pairs from their URLs with corpus.kind `urls`"
        )
    for name, found in numbers.items():
        for other, others in numbers.items():
            if lacking := sorted(others - found):
                raise CorpusError(
                    f"{folder / name}: no file of number {lacking[0]} (of {len(lacking)} such), which {other}/ has; "
                    "download what is missing, or take the other files of that number away"
                )
    found_parts = [
        _measured(folder, number)
        for number in tqdm(sorted(numbers["img_emb"]), desc="checking files", unit="part", disable=None, leave=False)
    ]
    for part in found_parts:
        _check_columns(folder / part.metadata, url_column, caption_column)
        if part.dimension != found_parts[0].dimension:
            raise CorpusError(
                f"{folder / part.image}: vectors of {part.dimension} numbers, {found_parts[0].image} has "
                f"{found_parts[0].dimension}; all must come from one model"
            )
    if not sum(part.rows for part in found_parts):
        raise CorpusError(f"{folder}: its files hold no row")
    return found_parts


def check_values(folder: Path, parts: list[Part]) -> None:
    """Read every vector once, a chunk at a time.

    Raises:
        CorpusError: Naming the file and the row of a vector that is not finite or not of length 1.
    """
    total = sum(part.rows for part in parts)
    with tqdm(total=total, desc="checking vectors", unit="row", disable=None, leave=False) as bar:
        for part in parts:
            for name in (part.image, part.text):
                vectors = open_vectors(folder / name)
                for start in range(0, part.rows, _CHUNK_ROWS):
                    lengths = np.linalg.norm(vectors[start : start + _CHUNK_ROWS].astype(np.float32), axis=1)
                    # A NaN compares as false, so it counts as bad.
                    bad = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT_NORM_TOLERANCE))
                    if len(bad):
                        raise CorpusError(
                            f"{folder / name}: row {start + int(bad[0])} has length {lengths[bad[0]]:.4g}, all must "
                            "have length 1: divide each vector by its length (as clip-retrieval does), or, if only "
                            f"this file is bad, {_WAY_OUT}"
                        )
            bar.update(part.rows)


def open_vectors(path: Path) -> NDArray[np.floating]:  # type: ignore[type-arg]
    """Map a file of vectors (N, D); nothing is read yet.

    Raises:
        CorpusError: If it is no whole array of float16 or float32 with two axes. Pickles are never loaded.
    """
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CorpusError(f"{path}: no whole .npy file ({error}); {_WAY_OUT}") from error
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype not in (np.float16, np.float32):
        shape = f"{vectors.dtype} {vectors.shape}" if isinstance(vectors, np.ndarray) else "an archive"
        raise CorpusError(f"{path}: {shape}; rows of float16 or float32 vectors are needed")
    return vectors


def _numbers(folder: Path, name: str, extension: str) -> set[str]:
    pattern = re.compile(rf"{name}_(\d+)\.{extension}")
    directory = folder / name
    if not directory.is_dir():
        if name == "text_emb":
            return set()
        raise CorpusError(f"{directory}: no such folder; corpus.embeddings must hold img_emb/, text_emb/ and metadata/")
    found = [match[1] for path in directory.iterdir() if (match := pattern.fullmatch(path.name))]
    if len({int(number) for number in found}) < len(found):
        raise CorpusError(f"{directory}: a number is written in two ways (1 and 01); keep one of the files")
    return set(found)


def _measured(folder: Path, number: str) -> Part:
    names = (
        f"img_emb/img_emb_{number}.npy",
        f"text_emb/text_emb_{number}.npy",
        f"{METADATA}/{METADATA}_{number}.parquet",
    )
    part = Part(number, *names)
    image, text = (open_vectors(folder / name) for name in (part.image, part.text))
    try:
        rows = pq.read_metadata(folder / part.metadata).num_rows
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(f"{folder / part.metadata}: no whole parquet file ({error}); {_WAY_OUT}") from error
    for name, count in ((part.text, len(text)), (part.metadata, rows)):
        if count != len(image):
            raise CorpusError(
                f"{folder / name}: {count:,} rows, {part.image} has {len(image):,}; the three files of a number must "
                f"belong together: {_WAY_OUT}"
            )
    if image.shape[1] != text.shape[1]:
        raise CorpusError(
            f"{folder / part.text}: vectors of {text.shape[1]} numbers, {part.image} has {image.shape[1]}; both must "
            "come from one model"
        )
    return Part(number, *names, rows=rows, dimension=image.shape[1])


def _check_columns(path: Path, url_column: str, caption_column: str) -> None:
    schema = pq.read_schema(path)
    for field, name in (("url_column", url_column), ("caption_column", caption_column)):
        if name not in schema.names:
            raise CorpusError(
                f"{path}: no column {name!r} (there: {', '.join(schema.names)}); name it in corpus.{field}"
            )
        kind = schema.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise CorpusError(f"{path}: column {name!r} holds {kind}, text is needed (corpus.{field})")
