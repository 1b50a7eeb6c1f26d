from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.drawings import write_shard
from support.pretended_gpu import pretended_gpu
from support.stages import run_corpus
from support.vectors import read_vectors

from react_pipeline.clip import load
from react_pipeline.corpus import decode_image, in_processes, index_shard
from react_pipeline.corpus.corpus import shard_digests
from react_pipeline.embedding import embed, embed_corpus, read_metadata
from react_pipeline.preflight import embedding_problems
from react_pipeline.project import Project
from react_pipeline.store import CorpusError

MakeProject = Callable[..., Project]


def test_every_row_is_its_pair_encoded_by_the_model(indexed_project: Project) -> None:
    store = indexed_project.store
    artifact = store.current("corpus_embeddings", "all")
    paths = list(shard_digests(indexed_project.config.corpus, store.current("corpus", "all")))
    clip = load(store.current("base_checkpoint", "all").path)
    table = read_metadata(artifact)
    assert len(table) == artifact.counts["rows"] == 96
    images = []
    for row in table.itertuples():
        data = paths[row.shard].read_bytes()
        image = data[row.image_offset : row.image_offset + row.image_bytes]
        assert hashlib.sha256(image).hexdigest() == row.image_sha256
        images.append(clip.preprocess(decode_image(image, 10_000)))
    assert read_vectors(artifact, "image") == pytest.approx(
        clip.encode_images(torch.stack(images)).numpy(), abs=1e-3
    )
    assert read_vectors(artifact, "text") == pytest.approx(
        clip.encode_texts(list(table["caption"])).numpy(), abs=1e-3
    )


def test_layout_is_clip_retrievals(indexed_project: Project) -> None:
    artifact = indexed_project.store.current("corpus_embeddings", "all")
    expected = {"ledger.parquet", "groups.jsonl"}
    for kind in (
        "img_emb/img_emb_{}.npy",
        "text_emb/text_emb_{}.npy",
        "metadata/metadata_{}.parquet",
    ):
        expected |= {kind.format(f"{n:06d}") for n in range(3)}
    assert set(artifact.manifest["files"]) == expected
    vectors = np.load(artifact.file("img_emb/img_emb_000001.npy"), allow_pickle=False)
    assert vectors.dtype == np.float16 and vectors.shape == (32, 32)
    assert np.linalg.norm(vectors.astype(np.float32), axis=1) == pytest.approx(1, abs=2e-3)
    assert artifact.counts["pairs_per_second"] > 0 and artifact.counts["device"] == "cpu"
    # No times, which would make equal builds differ.
    record = json.loads(artifact.file("groups.jsonl").read_text().splitlines()[0])
    assert not {"seconds", "reused_rows"} & record.keys()
    assert embed_corpus(indexed_project).reused
    table = read_metadata(artifact, ["number"])
    # The last sample has no metadata of its own.
    assert list(table["number"][:95]) == [*map(str, range(95))] and pd.isna(table["number"][95])


def test_uppercase_extensions_and_scattered_members_make_pairs(tmp_path: Path) -> None:
    images, captions = ("./d/one.JPG", "d/two.webp"), ("d/one.TXT", "d/two.txt")
    names = (*images, "d/README", "d/._one.jpg", "d/two.seg.png", *captions)
    index = index_shard(write_shard(tmp_path / "a.tar", [(name, b"x") for name in names]))
    assert [sample.key for sample in index.samples if sample.image] == ["d/one", "d/two"]
    assert index.pairs() == len(index.samples) == 2 and not index.refused


def test_a_corpus_without_a_usable_pair_is_refused(
    make_project: MakeProject, tmp_path: Path
) -> None:
    shard = write_shard(tmp_path / "a.tar", {"key": {"jpg": b"<html>", "txt": b"a page"}})
    project = make_project(corpus={"shards": [str(shard)], "max_bad_fraction": 1.0})
    with pytest.raises(CorpusError, match=r"not_an_image"):
        run_corpus(project, "corpus_embeddings")
    assert not (project.store.root / "corpus_embeddings" / "all").exists()


def test_shards_are_spread_over_the_cards_of_a_machine(
    make_project: MakeProject, indexed_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[str, int]] = []

    def here(task: Any, parts: Any, environments: Any, *_: str) -> Iterator[Any]:
        """Stands for processes of cards: the pretended GPU is in this one."""
        for environment, part in zip(cycle(environments), parts, strict=False):
            used.append((environment["CUDA_VISIBLE_DEVICES"], part.number))
            yield task(part)

    monkeypatch.setattr(embed, "in_processes", here)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pretended_gpu(), monkeypatch.context() as two:
        two.setattr(torch.cuda, "device_count", lambda: 2)
        artifact = run_corpus(make_project(store="cards", device="cuda"), "corpus_embeddings")
    assert used == [("0", 0), ("1", 1), ("0", 2)]
    one = indexed_project.store.current("corpus_embeddings", "all")
    pd.testing.assert_frame_equal(read_metadata(artifact), read_metadata(one))
    assert read_vectors(artifact, "text") == pytest.approx(read_vectors(one, "text"), abs=2e-3)


def test_a_process_sees_the_card_that_is_its_own() -> None:
    environments = [{"CUDA_VISIBLE_DEVICES": card} for card in "78"]
    seen = in_processes(os.getenv, ["CUDA_VISIBLE_DEVICES"] * 3, environments, "cards", "")
    assert list(seen) == ["7", "8", "7"]


def test_clip_retrieval_is_asked_for_where_pairs_are_encoded(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "find_spec", lambda _name: None)
    (problem,) = embedding_problems(make_project())
    assert "clip-retrieval is not installed; run: " in problem.message
    ready = {"kind": "embeddings", "embeddings": "laion"}
    assert not embedding_problems(make_project(corpus=ready))
