"""Images of chosen rows, by byte range from tars."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.drawings import COLOURS, SHAPES, pair, write_shard

from react_pipeline.corpus import image_source
from react_pipeline.corpus.image_source import TarSource
from react_pipeline.corpus.shards import index_shard, read_member


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    samples = {f"{n:03d}": pair(SHAPES[n % 4], COLOURS[n % 3], n) for n in range(40)}
    samples["007"]["png"] += bytes(100_000)
    return write_shard(tmp_path / "0.tar", samples)


def rows_of(shard: Path) -> pd.DataFrame:
    found = []
    with shard.open("rb") as file:
        for row, sample in enumerate(index_shard(shard).samples):
            assert sample.image is not None
            digest = hashlib.sha256(read_member(file, sample.image)).hexdigest()
            found.append(
                (row, "", 0, sample.key, sample.image.offset, sample.image.size_bytes, digest, "x")
            )
    columns = [
        "row",
        "class",
        "shard",
        "image_path",
        "image_offset",
        "image_bytes",
        "image_sha256",
        "caption",
    ]
    return pd.DataFrame(found, columns=columns)


def test_only_the_ranges_of_chosen_images_are_read(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(shard)
    source = TarSource([shard])
    assert [pair.row for pair, _ in source.fetch(rows.sample(frac=1, random_state=0))] == list(
        range(40)
    )

    class Counted(io.FileIO):
        def readinto(self, buffer: Any) -> int | None:
            read.append(super().readinto(buffer) or 0)
            return read[-1]

    read: list[int] = []
    monkeypatch.setattr(
        image_source, "open_shard", lambda path: io.BufferedReader(Counted(path), 512)
    )
    chosen = rows.iloc[[1, 2, 38, 38]]
    got = [(pair.row, hashlib.sha256(data).hexdigest()) for pair, data in source.fetch(chosen)]
    assert got == list(zip(chosen["row"], chosen["image_sha256"], strict=True))
    # Not the 100 kB image between them.
    assert 0 < sum(read) < 10_000
