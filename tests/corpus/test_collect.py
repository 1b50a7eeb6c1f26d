"""Collecting pairs by byte range, and reading the training shards back."""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import webdataset as wds

from react_pipeline.corpus import image_source
from react_pipeline.corpus.collected import CollectedPairs, collect_pairs
from react_pipeline.corpus.shards import index_shard, read_member
from react_pipeline.store.artifacts import Artifact, Inputs
from react_pipeline.store.errors import CorpusError, CorruptArtifact
from react_pipeline.store.store import Store


@pytest.fixture
def shards(drawings: Path, tmp_path: Path) -> list[Path]:
    shutil.copytree(drawings / "shards", tmp_path / "corpus")
    return sorted((tmp_path / "corpus").glob("*.tar"))


@pytest.fixture
def rows(shards: list[Path]) -> pd.DataFrame:
    found = []
    for shard, path in enumerate(shards):
        with path.open("rb") as file:
            for sample in index_shard(path).samples:
                image, caption = sample.image, sample.members.get("txt")
                assert image is not None
                assert caption is not None
                found.append(
                    {
                        "row": len(found),
                        "class": f"class {len(found) % 3}",
                        "shard": shard,
                        "image_path": sample.key,
                        "image_offset": image.offset,
                        "image_bytes": image.size_bytes,
                        "image_sha256": hashlib.sha256(read_member(file, image)).hexdigest(),
                        "caption": read_member(file, caption).decode(),
                    }
                )
    return pd.DataFrame(found).sample(17, random_state=0)


def fetch(shards: list[Path], rows: pd.DataFrame) -> Iterator[tuple[Any, bytes]]:
    return image_source.TarSource(shards).fetch(rows)


def publish(store: Path, rows: pd.DataFrame, shards: list[Path], shard_pairs: int = 5) -> Artifact:
    def write(directory: Path, _: object) -> dict[str, int]:
        collect_pairs(fetch(shards, rows), directory / "shards", shard_pairs, len(rows))
        return {"pairs": len(rows)}

    return Store(store).build(Inputs("retrieved_set", "pets", {"n": shard_pairs}, {}, "1"), write)


def test_collected_pairs_are_the_chosen_rows_byte_for_byte(
    tmp_path: Path, rows: pd.DataFrame, shards: list[Path]
) -> None:
    artifact = publish(tmp_path / "store", rows, shards)
    assert [path.name for path in sorted((artifact.path / "shards").glob("*.tar"))] == [
        f"0000{n}.tar" for n in range(4)
    ]
    chosen = rows.set_index("row")
    pairs = list(CollectedPairs(artifact))
    assert sorted(pair[0] for pair in pairs) == sorted(chosen.index)
    for row, image, caption, class_name in pairs:
        assert hashlib.sha256(image).hexdigest() == chosen.loc[row, "image_sha256"]
        assert (caption, class_name) == (chosen.loc[row, "caption"], chosen.loc[row, "class"])


def test_equal_rows_give_equal_bytes_whatever_their_order(
    tmp_path: Path, rows: pd.DataFrame, shards: list[Path]
) -> None:
    first = publish(tmp_path / "a", rows, shards)
    second = publish(tmp_path / "b", rows.sample(frac=1, random_state=3), shards)
    assert first.manifest["files"] == second.manifest["files"]


def test_webdataset_reads_the_shards_too(
    tmp_path: Path, rows: pd.DataFrame, shards: list[Path]
) -> None:
    artifact = publish(tmp_path / "store", rows, shards, shard_pairs=100)
    samples = list(wds.WebDataset(str(artifact.path / "shards" / "00000.tar"), shardshuffle=False))
    assert len(samples) == len(rows)
    assert {"jpg", "png", "webp"} <= {name for sample in samples for name in sample}


@pytest.mark.parametrize("how", ["changed", "cut", "gone"])
def test_an_image_unlike_the_embedded_one_is_refused(
    tmp_path: Path, rows: pd.DataFrame, shards: list[Path], how: str
) -> None:
    victim = rows.iloc[4]
    path = shards[victim["shard"]]
    data = bytearray(path.read_bytes())
    data[victim["image_offset"] + 20] ^= 1
    path.write_bytes(data if how == "changed" else data[: victim["image_offset"] + 9])
    if how == "gone":
        path.unlink()
    with pytest.raises(CorpusError, match=path.name):
        publish(tmp_path / "store", rows, shards)


def test_texts_are_kept_once_and_reach_processes_by_path(
    tmp_path: Path, rows: pd.DataFrame, shards: list[Path]
) -> None:
    alike = rows.assign(caption=["café ../../x \N{DOG}", "", *["three"] * (len(rows) - 2)])
    pairs = CollectedPairs(publish(tmp_path / "store", alike, shards))
    assert sorted(pairs.captions.to_pylist()) == ["", "café ../../x \N{DOG}", "three"]
    assert sorted(pairs.classes) == ["class 0", "class 1", "class 2"]
    sent = pickle.dumps(pairs)
    assert len(sent) < 10_000
    assert list(pickle.loads(sent)) == list(pairs)  # noqa: S301 - our own bytes


def test_a_shard_that_is_cut_or_gone_during_a_training_is_named(
    tmp_path: Path, rows: pd.DataFrame, shards: list[Path]
) -> None:
    pairs = CollectedPairs(publish(tmp_path / "store", rows, shards))
    tar = pairs._paths[1]
    tar.write_bytes(tar.read_bytes()[:2_000])
    with pytest.raises(CorruptArtifact, match=rf"{tar.name}.*`retrieved_set`"):
        list(pairs)
    tar.unlink()
    with pytest.raises(CorruptArtifact, match=tar.name):
        list(pairs)


def test_only_the_ranges_of_chosen_images_are_read(
    rows: pd.DataFrame, shards: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counted(io.FileIO):
        def readinto(self, buffer: Any) -> int | None:
            read.append(super().readinto(buffer) or 0)
            return read[-1]

    read: list[int] = []
    monkeypatch.setattr(
        image_source, "open_shard", lambda path: io.BufferedReader(Counted(path), 512)
    )
    chosen = pd.concat([rows.iloc[:3], rows.iloc[:1]])
    got = [(pair.row, hashlib.sha256(data).hexdigest()) for pair, data in fetch(shards, chosen)]
    assert got == sorted(zip(chosen["row"], chosen["image_sha256"], strict=True))
    assert 0 < sum(read) < sum(path.stat().st_size for path in shards) / 10
