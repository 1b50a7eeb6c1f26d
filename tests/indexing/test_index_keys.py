from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
from pydantic import ValidationError

from react_pipeline.clip import machine_memory_bytes
from react_pipeline.indexing import GRAPH_ROWS, Key, choose_key
from react_pipeline.indexing.build import train
from react_pipeline.settings import IndexConfig
from react_pipeline.store import InputError

GIB = 2**30


@pytest.mark.parametrize(
    ("rows", "gib", "key"),
    [
        (200_000, 16, "Flat"),
        (200_001, 16, "HNSW32"),
        (GRAPH_ROWS, 16, "HNSW32"),
        (GRAPH_ROWS + 1, 16, "IVF2048,SQfp16"),
        (10_000_000, 16, "IVF8192,SQfp16"),
        (100_000_000, 16, "OPQ64_512,IVF16384_HNSW32,PQ64x8"),
        (400_000_000, 16, "OPQ32_512,IVF32768_HNSW32,PQ32x8"),
        (300_000, 0.5, "IVF1024,SQfp16"),
    ],
)
def test_auto_goes_from_exact_to_graph_cells_and_codes(rows: int, gib: float, key: str) -> None:
    assert choose_key(IndexConfig(), rows, 512, int(gib * GIB))[0] == key
    assert choose_key(IndexConfig(memory_gib=gib), rows, 512)[0] == key
    assert 0 < machine_memory_bytes() < 2**50


@pytest.mark.parametrize(
    "text", ["SQ8", "HNSW16_SQfp16", "IVF64,SQ6", "IVF64_HNSW16,Flat", "OPQ8_32,IVF64_HNSW16,PQ8x4"]
)
def test_predicted_size_is_the_size_of_the_file(text: str, tmp_path: Path) -> None:
    rows, width = 3_000, 64
    vectors = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)
    index = faiss.index_factory(width, text, faiss.METRIC_INNER_PRODUCT)
    train(index, Key.parse(text), vectors, on_gpu=False)
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "index"))
    tables = 2**4 * width * 4 if "PQ" in text else 2 * width * 4
    size = (tmp_path / "index").stat().st_size - tables
    assert Key.parse(text).bytes(rows, width) == pytest.approx(size, rel=0.02, abs=3_000)


@pytest.mark.parametrize(
    "text",
    ["LSH", "IVF,Flat", "IVF10", "PQ8", "Flat,IVF8", "IVF8,Flat;x", "HNSW", "IVF8,SQ5", ""]
    # FAISS divides by these numbers, or reads beyond an array of so many.
    + ["Flat\n", "IVF٣,Flat", "IVF0,Flat", "HNSW0", "IVF1,PQ0", "IVF1,PQ8x0", "OPQ0,IVF1,SQ8"]
    + ["OPQ8_0,IVF1,SQ8", "IVF1_HNSW0,Flat", "HNSW1", "IVF64_HNSW1,Flat", "IVF64,PQ64x16"]
    + ["OPQ8,IVF64,PQ8x3"],
)
def test_a_foreign_key_is_refused_in_the_configuration(text: str) -> None:
    with pytest.raises(ValidationError, match="`auto`"):
        IndexConfig(key=text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("IVF64,PQ7", "needs 512 of them in 7 equal parts"),
        ("OPQ64_1024,IVF64,PQ64", "vectors of 512 numbers: it needs 1024"),
        ("OPQ48,IVF64,PQ64", "in 48 equal parts"),
    ],
)
def test_a_quantizer_that_does_not_fit_the_width_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        choose_key(IndexConfig(key=text), 1_000_000, 512)


@pytest.mark.parametrize(("text", "needed"), [("IVF1024,Flat", 39_936), ("IVF8,PQ8", 9_984)])
def test_a_corpus_too_small_for_its_key_is_searched_exactly(text: str, needed: int) -> None:
    key, reason = choose_key(IndexConfig(key=text), needed - 1, 512)
    assert key == "Flat" and f"{text} needs {needed:,} rows to train" in reason
    assert choose_key(IndexConfig(key=text), needed, 512) == (text, "configured")
