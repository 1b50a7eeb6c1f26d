"""Ready embeddings as clip-retrieval lays them out: captions truly encoded, images as vectors of
any direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from support.drawings import COLOURS, SHAPES

CAPTIONS = [f"a drawing of a {colour} {shape}" for colour in COLOURS for shape in SHAPES]


def encoded(checkpoint: Path, captions: Sequence[str]) -> NDArray[np.float16]:
    from react_pipeline.clip.model import load

    return load(checkpoint).encode_texts(captions).numpy().astype(np.float16)


def write_ready(
    folder: Path,
    text: NDArray[Any],
    captions: Sequence[str | None] = CAPTIONS,
    *,
    names: tuple[str, str] = ("url", "caption"),
    image: NDArray[Any] | None = None,
    web: str = "http://127.0.0.1:9",
) -> pd.DataFrame:
    """Write the three folders; returns the whole metadata. Row n has the URL `n.png` on a web."""
    if image is None:
        image = np.random.default_rng(0).standard_normal(text.shape)
        image /= np.linalg.norm(image, axis=1, keepdims=True)
    image = image.astype(np.float16)
    urls = [f"{web}/{row}.png" for row in range(len(text))]
    table = pd.DataFrame({"key": range(len(text)), names[1]: captions, names[0]: urls})
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    for number, rows in enumerate(np.array_split(np.arange(len(text)), 3)):
        np.save(folder / f"img_emb/img_emb_{number:02d}.npy", image[rows])
        np.save(folder / f"text_emb/text_emb_{number:02d}.npy", text[rows])
        table.iloc[rows].to_parquet(
            folder / f"metadata/metadata_{number:02d}.parquet",
            index=False,
            row_group_size=4,
        )
    return table


def paired(text: NDArray[Any]) -> NDArray[np.float32]:
    """Vectors of images that are near those of their captions, as a CLIP makes them."""
    noise = np.random.default_rng(3).standard_normal(text.shape) / np.sqrt(text.shape[1])
    image = text.astype(np.float32) + noise / 2
    return (image / np.linalg.norm(image, axis=1, keepdims=True)).astype(np.float32)


def write_datacomp(
    folder: Path,
    text: NDArray[Any],
    captions: Sequence[str | None],
    urls: Sequence[str],
    *,
    save: Any = np.savez,
) -> pd.DataFrame:
    """Two parts, `HEX.parquet` beside `HEX.npz`, as DataComp publishes them; returns the whole
    table.
    """
    folder.mkdir(parents=True)
    chance, image = np.random.default_rng(0), paired(text).astype(np.float16)
    table = pd.DataFrame(
        {
            "uid": [chance.bytes(16).hex() for _ in urls],
            "url": urls,
            "text": captions,
            "original_width": 32,
            "sha256": [chance.bytes(32).hex() for _ in urls],
            "face_bboxes": [[[0.1, 0.2, 0.3, 0.4]] * (row % 2) for row in range(len(urls))],
        }
    )
    for name, rows in zip("ab", np.array_split(np.arange(len(text)), 2), strict=True):
        members = dict.fromkeys(("l14_img", "l14_txt", "dedup"), np.ones((len(rows), 8), np.half))
        members |= {"b32_img": image[rows], "b32_txt": text[rows]}
        save(folder / f"{name * 32}.npz", **members)
        table.iloc[rows].to_parquet(folder / f"{name * 32}.parquet", index=False, row_group_size=5)
    return table


def write_vector_column(
    folder: Path, image: NDArray[Any], columns: dict[str, Sequence[str]]
) -> None:
    """TreeOfLife: one table, its vectors lists of fixed length in half precision, and taxa in place
    of captions.
    """
    folder.mkdir(parents=True)
    lists = pa.FixedSizeListArray.from_arrays(
        pa.array(image.astype(np.float16).ravel()), image.shape[1]
    )
    pq.write_table(
        pa.table({**columns, "emb": lists}),
        folder / "part-00000-a1b2.snappy.parquet",
        row_group_size=3,
    )
