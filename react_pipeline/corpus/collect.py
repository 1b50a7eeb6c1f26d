"""Collecting: the image and caption of chosen corpus rows, copied into training shards with a table of them.

Does not belong here: their reader (`collected`), which rows are chosen (`retrieval`), where images come from
(`image_source`).

A shard is a webdataset tar of `KEY.jpg|png|webp`, `KEY.txt` and `KEY.json` ({"row", "class"}) in this order; KEY is the
row number of the corpus, so no name of a source is ever used as a path. The table is an Arrow file of one record batch,
so that processes map it and no shard is ever walked: `row`, `shard` (number of the tar), `offset` and `bytes` of the
image in it, `caption` and `class`, both as a dictionary of the different texts.
"""

import tarfile
from array import array
from collections.abc import Mapping
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from react_pipeline.corpus.image_source import ImageSource
from react_pipeline.corpus.shards import add_pair

SHARDS = "shards"
TABLE = "table.arrow"
"""The table's file, beside the tars."""


def collect_pairs(pairs: pd.DataFrame, source: ImageSource, directory: Path, shard_pairs: int) -> NDArray[np.int64]:
    """Copy pairs into training shards in `directory`, in the order of the corpus.

    The caption written is the one that was embedded (cleaned and cut by the corpus' rules), so that the shards agree
    with `pairs.parquet`; only the image is fetched. Equal pairs give equal bytes.

    Args:
        pairs: Columns row, class, and those that the source needs.
        directory: Gets `00000.tar`, ... and the table; made if missing.

    Returns:
        The rows that were collected; `source` has the reasons why others are not.

    Raises:
        CorpusError: If a tar is gone, or an image's bytes are not those that were embedded.
    """
    directory.mkdir(parents=True, exist_ok=True)
    images = iter(tqdm(source.fetch(pairs), total=len(pairs), desc="collecting pairs", disable=None, leave=False))
    # Ten million pairs: numbers and Arrow's buffers, and no objects.
    numbers = {name: array("q") for name in ("row", "shard", "offset", "bytes")}
    texts: dict[str, list[pa.Array]] = {name: [pa.array([], pa.large_string())] for name in ("caption", "class")}
    shards = 0
    while first := next(images, None):
        captions, labels = [], []
        path = directory / f"{shards:05d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for pair, image in chain([first], islice(images, shard_pairs - 1)):
                offset = tar.offset + tarfile.BLOCKSIZE  # behind the image's own header
                for name, number in zip(numbers, (int(pair.row), shards, offset, len(image)), strict=True):
                    numbers[name].append(number)
                captions.append(pair.caption)
                labels.append(str(pair.label))
                about = {"row": int(pair.row), "class": pair.label}
                about |= {"classes": classes} if (classes := list(getattr(pair, "classes", ()))) else {}
                add_pair(tar, f"{int(pair.row):09d}", image, pair.caption.encode(), about)
        texts["caption"].append(pa.array(captions, pa.large_string()))
        texts["class"].append(pa.array(labels, pa.large_string()))
        shards += 1
    columns = {name: pa.array(np.frombuffer(column, np.int64)) for name, column in numbers.items()}
    columns |= {name: pa.concat_arrays(parts).dictionary_encode() for name, parts in texts.items()}
    write_table(directory, columns)
    return np.array(numbers["row"], np.int64)


def write_table(directory: Path, columns: Mapping[str, pa.Array]) -> None:
    """Write the table of the shards in `directory`: its columns in the order of the pairs, see above."""
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    with pa.OSFile(str(directory / TABLE), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
