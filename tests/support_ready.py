"""Ready embeddings as clip-retrieval lays them out: captions truly encoded, images as vectors of any direction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from support_drawings import COLOURS, SHAPES

CAPTIONS = [f"a drawing of a {colour} {shape}" for colour in COLOURS for shape in SHAPES]


def encoded(checkpoint: Path, captions: Sequence[str]) -> NDArray[np.float16]:
    from react_pipeline.clip.model import load

    return load(checkpoint).encode_texts(captions).numpy().astype(np.float16)


def write_ready(
    folder: Path,
    text: NDArray[Any],
    captions: Sequence[str | None] = CAPTIONS,
    *,
    parts: int = 3,
    names: tuple[str, str] = ("url", "caption"),
    rows_per_group: int = 4,
) -> pd.DataFrame:
    """Write the three folders; returns the whole metadata. Row n has the URL `http://127.0.0.1:9/n.png`."""
    chance = np.random.default_rng(0)
    image = chance.standard_normal(text.shape)
    image = (image / np.linalg.norm(image, axis=1, keepdims=True)).astype(np.float16)
    urls = [f"http://127.0.0.1:9/{row}.png" for row in range(len(text))]
    table = pd.DataFrame({"key": range(len(text)), names[1]: captions, names[0]: urls})
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    for number, rows in enumerate(np.array_split(np.arange(len(text)), parts)):
        np.save(folder / f"img_emb/img_emb_{number:02d}.npy", image[rows])
        np.save(folder / f"text_emb/text_emb_{number:02d}.npy", text[rows])
        table.iloc[rows].to_parquet(
            folder / f"metadata/metadata_{number:02d}.parquet", index=False, row_group_size=rows_per_group
        )
    return table
