from __future__ import annotations

import re
from pathlib import Path

import faiss
import numpy as np
import pytest
from pydantic import ValidationError

from react_pipeline.indexing.keys import (
    GRAPH_ROWS,
    Key,
    choose_key,
    machine_memory_bytes,
)
from react_pipeline.settings import IndexConfig
from react_pipeline.store.errors import InputError

pytestmark = pytest.mark.usefixtures("short_rotation")
GIB = 2**30


def test_auto_goes_from_exact_to_graph_cells_and_codes() -> None:
    def key(rows: int, gib: float = 16) -> str:
        return choose_key(IndexConfig(), rows, 512, int(gib * GIB))[0]

    assert key(200_000) == "Flat"
    assert key(200_001) == key(GRAPH_ROWS) == "HNSW32"
    assert key(GRAPH_ROWS + 1) == "IVF2048,SQfp16"
    assert key(10_000_000) == "IVF8192,SQfp16"
    assert key(100_000_000) == "OPQ64_512,IVF16384_HNSW32,PQ64x8"
    assert key(400_000_000) == "OPQ32_512,IVF32768_HNSW32,PQ32x8"
    assert key(300_000, gib=0.5) == "IVF1024,SQfp16"


def test_the_reason_says_why_it_is_that_key() -> None:
    def reason(rows: int) -> str:
        return choose_key(IndexConfig(), rows, 512, 4 * GIB)[1]

    assert "at most exact_below" in reason(10)
    assert re.search(r"more than exact_below.* takes 0\.\d\d GiB of 4\.00 GiB$", reason(300_000))
    # The shortest codes are built where nothing fits.
    assert re.search(r"takes 8\d\.\d\d GiB of 4\.00 GiB$", reason(4_000_000_000))


def test_memory_of_the_configuration_decides() -> None:
    assert choose_key(IndexConfig(memory_gib=64), 20_000_000, 512)[0] == "IVF8192,SQfp16"
    assert choose_key(IndexConfig(memory_gib=4), 20_000_000, 512)[0].startswith("OPQ")
    assert 0 < machine_memory_bytes() < 2**50


@pytest.mark.parametrize(
    "text",
    [
        "Flat",
        "SQ8",
        "SQfp16",
        "HNSW16",
        "HNSW16_SQfp16",
        "IVF64,Flat",
        "IVF64,SQ8",
        "IVF64,SQ4",
        "IVF64,SQ6",
    ]
    + ["IVF64_HNSW16,Flat", "IVF64,PQ8x4", "OPQ8_32,IVF64_HNSW16,PQ8x4", "OPQ8,IVF64,PQ16x4"],
)
def test_predicted_size_is_the_size_of_the_file(text: str, tmp_path: Path) -> None:
    rows, width = 3_000, 64
    vectors = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)
    index = faiss.index_factory(width, text, faiss.METRIC_INNER_PRODUCT)
    if (lists := faiss.try_extract_index_ivf(index)) is not None and hasattr(
        faiss.downcast_index(lists), "pq"
    ):
        faiss.downcast_index(lists).do_polysemous_training = False
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "index"))
    tables = 2**4 * width * 4 if "PQ" in text else 2 * width * 4
    predicted = Key.parse(text).bytes(rows, width)
    assert predicted == pytest.approx(
        (tmp_path / "index").stat().st_size - tables, rel=0.02, abs=3_000
    )


@pytest.mark.parametrize(
    "text",
    [
        "LSH",
        "IVF,Flat",
        "IVF10",
        "PQ8",
        "Flat,IVF8",
        "IVF8,Flat;x",
        "HNSW",
        "IVF8,SQ5",
        "",
        "Flat\n",
        "IVF٣,Flat",
    ]
    # FAISS divides by these numbers, or reads beyond an array of so many.
    + [
        "IVF0,Flat",
        "HNSW0",
        "IVF1,PQ0",
        "IVF1,PQ8x0",
        "OPQ0,IVF1,SQ8",
        "OPQ8_0,IVF1,SQ8",
        "IVF1_HNSW0,Flat",
        "HNSW1",
        "IVF64_HNSW1,Flat",
        "IVF64,PQ64x16",
        "OPQ8,IVF64,PQ8x3",
    ],
)
def test_a_foreign_key_is_refused_in_the_configuration(text: str) -> None:
    with pytest.raises(ValidationError, match="`auto`"):
        IndexConfig(key=text)
    with pytest.raises(InputError, match=r"index\.key"):
        Key.parse(text)


@pytest.mark.parametrize(
    "text", ["HNSW2", "IVF8_HNSW2,Flat", "IVF1,PQ4x4", "IVF1,PQ4x12", "IVF10,SQ8"]
)
def test_the_least_and_the_most_that_a_key_may_say(text: str) -> None:
    assert Key.parse(IndexConfig(key=text).key).text == text


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


@pytest.mark.parametrize(
    ("text", "rows", "reason"),
    [
        (
            "IVF1024,Flat",
            39_935,
            "IVF1024,Flat needs 39,936 rows to train, there are 39,935",
        ),
        ("IVF8,PQ8", 9_983, "IVF8,PQ8 needs 9,984 rows to train, there are 9,983"),
    ],
)
def test_a_corpus_too_small_for_its_key_is_searched_exactly(
    text: str, rows: int, reason: str
) -> None:
    assert choose_key(IndexConfig(key=text), rows, 512)[0] == "Flat"
    assert reason in choose_key(IndexConfig(key=text), rows, 512)[1]
    assert choose_key(IndexConfig(key=text), rows + 1, 512) == (text, "configured")


def test_a_key_that_memory_cannot_hold_is_refused_with_sizes() -> None:
    with pytest.raises(InputError, match=r"needs 1,\d{3}\.\d\d GiB, more than the 8.00 GiB"):
        choose_key(IndexConfig(key="HNSW32", memory_gib=8), 600_000_000, 512)
