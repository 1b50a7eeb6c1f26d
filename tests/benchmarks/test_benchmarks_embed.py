"""What the benchmark of the embedding compares is the same: every part gives the model's own
vectors.
"""

from __future__ import annotations

import statistics
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import embed as benchmark
from benchmarks import embed_inputs
from benchmarks.embed_runs import Batch
from benchmarks.methods import write_section
from react_pipeline.clip.model import Clip, load


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    directory = tmp_path_factory.mktemp("base")
    embed_inputs.write_small_checkpoint(directory)
    return load(directory)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shards")
    embed_inputs.write_shards(directory, 2, 12, pixels=40, images=5)
    return directory


def test_shards_hold_the_pairs_that_were_asked_for(clip: Clip, shards: Path) -> None:
    names = []
    for path in shards.glob("*.tar"):
        with tarfile.open(path) as tar:
            names += tar.getnames()
    assert len(set(names)) == len(names) == 2 * 2 * 12
    batches = Batch.read(shards, clip)
    assert [batch.images.shape for batch in batches] == [(12, 3, 32, 32)] * 2


def test_captions_have_the_lengths_that_are_stated() -> None:
    captions = embed_inputs.draw_captions(2_000)
    words = [len(caption.split()) for caption in captions]
    assert statistics.median(words) == 9 and min(words) >= 2 and max(words) <= 50
    assert 0.01 < 1 - len(set(captions)) / len(captions) < 0.06


def test_rows_are_ratios_of_medians_and_the_page_shows_them(tmp_path: Path) -> None:
    unit = np.eye(3)
    vectors: dict[str, Any] = {
        name: {"image": unit, "text": unit} for name in (benchmark.THEIRS, *benchmark.OURS)
    }
    seconds = {
        benchmark.THEIRS: [8.0, 10.0, 60.0],
        benchmark.BARE: [9.0] * 3,
        "ours fp32": [5.0, 4.0, 5.0],
    }
    rows = benchmark.speed_rows({**seconds, "ours bf16": [2.0] * 3}, 20, vectors)
    assert rows["ours fp32"]["over clip-retrieval"] == 2.0 and rows["ours bf16"]["pairs/s"] == 10
    assert rows["ours fp32"]["over the bare pass"] == pytest.approx(1.8)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{benchmark.BEGIN}\nold\n{benchmark.END}\nafter")
    text = benchmark.section("Setting.", rows)
    write_section(page, text, benchmark.BEGIN, benchmark.END)
    written = page.read_text()
    assert "old" not in written and written.endswith("after")
    assert "| ours bf16" in written and "1.0000000" in written
