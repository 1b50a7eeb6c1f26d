"""Collecting pairs by byte range, and reading the training shards back."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from pathlib import Path

import pandas as pd
import pytest
import webdataset as wds

from react_pipeline.corpus import CollectedPairs, collect_pairs
from react_pipeline.corpus.image_source import LOCATION, TarSource
from react_pipeline.embedding import read_metadata
from react_pipeline.project import Project
from react_pipeline.store import Artifact, CorpusError, CorruptArtifact, Inputs, Store


@pytest.fixture
def shards(drawings: Path, tmp_path: Path) -> list[Path]:
    shutil.copytree(drawings / "shards", tmp_path / "corpus")
    return sorted((tmp_path / "corpus").glob("*.tar"))


@pytest.fixture
def rows(indexed_project: Project) -> pd.DataFrame:
    embeddings = indexed_project.store.current("corpus_embeddings", "all")
    table = read_metadata(embeddings, LOCATION).rename_axis("row").reset_index()
    return table.assign(**{"class": [f"class {row % 3}" for row in table["row"]]}).sample(
        17, random_state=0
    )


def publish(store: Path, rows: pd.DataFrame, shards: list[Path], shard_pairs: int = 5) -> Artifact:
    def write(directory: Path, _: object) -> dict[str, int]:
        collect_pairs(TarSource(shards).fetch(rows), directory / "shards", shard_pairs, len(rows))
        return {"pairs": len(rows)}

    return Store(store).build(Inputs("retrieved_set", "pets", {"n": shard_pairs}, {}, "1"), write)


def test_collected_pairs_are_the_chosen_rows_byte_for_byte(
    tmp_path: Path, rows: pd.DataFrame, shards: list[Path]
) -> None:
    artifact = publish(tmp_path / "store", rows, shards)
    tars = sorted(map(str, (artifact.path / "shards").glob("*.tar")))
    assert len(tars) == 4
    chosen = rows.set_index("row")
    pairs = list(CollectedPairs(artifact))
    assert sorted(pair[0] for pair in pairs) == sorted(chosen.index)
    for row, image, *texts in pairs:
        assert hashlib.sha256(image).hexdigest() == chosen.loc[row, "image_sha256"]
        assert texts == chosen.loc[row, ["caption", "class"]].tolist()
    samples = list(wds.WebDataset(tars, shardshuffle=False))
    assert len(samples) == len(rows)
    assert {"jpg", "png", "webp"} <= {name for sample in samples for name in sample}
    again = publish(tmp_path / "b", rows.sample(frac=1, random_state=3), shards)
    assert again.manifest["files"] == artifact.manifest["files"]


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


def test_a_shard_that_is_cut_during_a_training_is_named(
    tmp_path: Path, rows: pd.DataFrame, shards: list[Path]
) -> None:
    pairs = CollectedPairs(publish(tmp_path / "store", rows, shards))
    tar = pairs._paths[1]
    tar.write_bytes(tar.read_bytes()[:2_000])
    with pytest.raises(CorruptArtifact, match=rf"{tar.name}.*`retrieved_set`"):
        list(pairs)
