"""A corpus that has grown or changed is embedded where it is new, and ends as if it had been
embedded from scratch.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.drawings import COLOURS, SHAPES, pair, write_shard
from support.stages import run_corpus
from support.vectors import read_vectors, vector_files

from react_pipeline.embedding import LEDGER_FILE, read_metadata
from react_pipeline.embedding import earlier as module
from react_pipeline.project import Project
from react_pipeline.store import Artifact

SIDES = ("image", "text")
PAIRS = 4


@pytest.fixture
def shards(tmp_path: Path) -> dict[str, str]:
    """Shards by name: of different keys, a copy of one, and one with a bad image and a link."""
    made = {}
    for number, name in enumerate("acef"):
        first = 10 * number - 8 * (name == "c")  # some keys of `c` are in `a` too
        drawn = {
            f"key{key:03d}": pair(SHAPES[key % 4], COLOURS[number], number * 100 + key)
            for key in range(first, first + PAIRS)
        }
        made[name] = write_shard(tmp_path / f"{name}.tar", drawn)
    made["copy of e"] = shutil.copy(made["e"], tmp_path / "copy.tar")
    bad = {f"bad{n}": pair("cross", "red", n, number=n) for n in range(PAIRS)}
    bad["bad1"]["png"] = b"<html>"
    members = [(f"{key}.{ext}", data) for key, one in bad.items() for ext, data in one.items()]
    made["bad"] = write_shard(tmp_path / "bad.tar", [*members, ("../outside.png", b"x")])
    return {name: str(path) for name, path in made.items()}


Embed = Callable[..., Artifact]


@pytest.fixture
def embedded(make_project: Callable[..., Project], shards: dict[str, str]) -> Embed:
    def embed(names: Sequence[str], store: str = "store") -> Artifact:
        corpus = {"shards": [shards[name] for name in names], "max_bad_fraction": 1.0}
        return run_corpus(make_project(store=store, corpus=corpus), "corpus_embeddings")

    return embed


def require_same(one: Artifact, other: Artifact) -> None:
    """The same rows, row for row, and the same ledger."""
    assert one.fingerprint == other.fingerprint
    # Where a field is missing, a shard in which another sample has it says None, and one in which
    # none has it NaN.
    tables = [table.where(table.notna(), None) for table in map(read_metadata, (one, other))]
    pd.testing.assert_frame_equal(*tables)
    for side in SIDES:
        assert np.array_equal(read_vectors(one, side), read_vectors(other, side))
    ledgers = [pd.read_parquet(artifact.file(LEDGER_FILE)) for artifact in (one, other)]
    ordered = [ledger.sort_values(["shard", "key"], ignore_index=True) for ledger in ledgers]
    pd.testing.assert_frame_equal(*ordered)
    for count in ("rows", "skipped", "reasons", "captions_cut", "metadata_ignored"):
        assert one.counts[count] == other.counts[count]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["e", "a", "bad"], ["bad", "f", "copy of e", "a"]),
        (["bad"], ["a", "bad", "c"]),
        (["a", "e"], ["a", "e", "f"]),
    ],
)
def test_incremental_equals_from_scratch_and_links_what_was_there(
    embedded: Embed, before: list[str], after: list[str]
) -> None:
    old, grown, scratch = embedded(before), embedded(after), embedded(after, "scratch")
    assert grown.counts["reused_rows"] > scratch.counts["reused_rows"] == 0
    require_same(grown, scratch)
    for side in SIDES:
        inodes = [{path.stat().st_ino for path in vector_files(one, side)} for one in (old, grown)]
        assert len(inodes[0] & inodes[1]) == len(before)


def test_a_shard_that_cannot_be_linked_whole_is_encoded_anew(
    embedded: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = embedded("a")
    whole, linked = module.link_or_copy, list[Path]()

    def failing(source: Path, target: Path) -> None:
        linked.append(target)
        if len(linked) == 2:
            raise OSError("no space")
        whole(source, target)

    monkeypatch.setattr(module, "link_or_copy", failing)
    grown = embedded("af")
    assert grown.counts["reused_rows"] == 0 and len(linked) == 2
    assert not vector_files(grown, "image")[0].samefile(vector_files(old, "image")[0])


@pytest.mark.parametrize(
    ("file", "reused"),
    [
        ("text_emb/text_emb_000001.npy", PAIRS),
        ("metadata/metadata_000001.parquet", PAIRS),
        ("groups.jsonl", 0),
        ("ledger.parquet", 0),
        ("../manifest.json", 0),
    ],
)
def test_nothing_corrupt_is_taken_over(embedded: Embed, file: str, reused: int) -> None:
    path = embedded("ae").path / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data if reused else b"{}")
    artifact = embedded("aef")
    assert artifact.counts["reused_rows"] == reused
    require_same(artifact, embedded("aef", "scratch"))
