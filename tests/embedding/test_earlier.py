"""A corpus that has grown or changed is embedded where it is new, and ends as if it had been
embedded from scratch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.drawings import COLOURS, SHAPES, pair, write_shard
from support.vectors import read_vectors

from react_pipeline.clip.base import publish_base
from react_pipeline.corpus.corpus import publish_corpus
from react_pipeline.embedding import earlier as module
from react_pipeline.embedding.embed import embed_corpus
from react_pipeline.embedding.vectors import LEDGER_FILE, read_metadata, vector_files
from react_pipeline.project.project import Project
from react_pipeline.store.artifacts import Artifact

MakeProject = Callable[..., Project]
SIDES = ("image", "text")
PAIRS = 4
KEYS: dict[str, Sequence[int]] = {
    "a": range(0, 4),
    "c": range(2, 6),
    "e": range(20, 24),
    "f": range(30, 34),
}


@pytest.fixture
def shards(tmp_path: Path) -> dict[str, Path]:
    """Shards by name: those of `KEYS`, a copy of one, and one with a bad image and a link."""
    made = {}
    for number, (name, keys) in enumerate(KEYS.items()):
        samples = {
            f"key{key:03d}": pair(SHAPES[key % 4], COLOURS[number % 4], number * 100 + key)
            for key in keys
        }
        made[name] = write_shard(tmp_path / "shards" / f"{name}.tar", samples)
    made["copy of e"] = tmp_path / "shards" / "copy.tar"
    made["copy of e"].write_bytes(made["e"].read_bytes())
    bad = {f"bad{n}": pair("cross", "red", n, number=n) for n in range(PAIRS)}
    bad["bad1"]["png"] = b"<html>"
    members = [
        (f"{key}.{ext}", data) for key, sample in bad.items() for ext, data in sample.items()
    ]
    made["bad"] = write_shard(tmp_path / "shards" / "bad.tar", [*members, ("../outside.png", b"x")])
    return made


def embedded(
    make: MakeProject, paths: Sequence[Path], store: str = "store", **sections: object
) -> Artifact:
    corpus = {
        "shards": [str(path) for path in paths],
        "max_bad_fraction": 1.0,
        **sections.pop("corpus", {}),
    }  # type: ignore[dict-item]
    project = make(store=store, corpus=corpus, **sections)
    publish_corpus(project)
    publish_base(project)
    return embed_corpus(project)


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
    ],
)
def test_incremental_equals_from_scratch(
    make_project: MakeProject, shards: dict[str, Path], before: list[str], after: list[str]
) -> None:
    embedded(make_project, [shards[name] for name in before])
    grown = embedded(make_project, [shards[name] for name in after])
    assert grown.counts["reused_rows"]
    scratch = embedded(make_project, [shards[name] for name in after], "scratch")
    assert scratch.counts["reused_rows"] == 0
    require_same(grown, scratch)


def test_a_grown_corpus_embeds_what_is_new_and_links_the_rest(
    make_project: MakeProject, shards: dict[str, Path]
) -> None:
    old = embedded(make_project, [shards["a"], shards["e"]])
    grown = embedded(make_project, [shards["a"], shards["e"], shards["f"]])
    assert (grown.counts["rows"], grown.counts["reused_rows"]) == (12, 8)
    for side in SIDES:
        linked = [path.stat().st_ino for path in vector_files(grown, side)[:2]]
        assert linked == [path.stat().st_ino for path in vector_files(old, side)]
    assert old.fingerprint != grown.fingerprint
    # What is shared is as it was.
    store = make_project().store
    assert store.open("corpus_embeddings", "all", old.fingerprint).counts == old.counts


def test_a_shard_that_cannot_be_linked_whole_is_encoded_anew(
    make_project: MakeProject, shards: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = embedded(make_project, [shards["a"]])
    whole, linked = module.link_or_copy, list[Path]()

    def failing(source: Path, target: Path) -> None:
        linked.append(target)
        if len(linked) == 2:
            raise OSError("no space")
        whole(source, target)

    monkeypatch.setattr(module, "link_or_copy", failing)
    grown = embedded(make_project, [shards["a"], shards["f"]])
    assert grown.counts["reused_rows"] == 0 and len(linked) == 2
    assert not vector_files(grown, "image")[0].samefile(vector_files(old, "image")[0])


@pytest.mark.parametrize(
    "file", ["text_emb/text_emb_000001.npy", "metadata/metadata_000001.parquet"]
)
def test_nothing_corrupt_is_taken_over(
    make_project: MakeProject, shards: dict[str, Path], file: str
) -> None:
    old = embedded(make_project, [shards["a"], shards["e"]])
    path = old.file(file)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    paths = [shards["a"], shards["e"], shards["f"]]
    artifact = embedded(make_project, paths)
    assert artifact.counts["reused_rows"] == PAIRS
    require_same(artifact, embedded(make_project, paths, "scratch"))


@pytest.mark.parametrize("file", ["groups.jsonl", "ledger.parquet", "manifest.json"])
def test_embeddings_that_cannot_be_trusted_give_nothing(
    make_project: MakeProject, shards: dict[str, Path], file: str
) -> None:
    old = embedded(make_project, [shards["a"], shards["e"]])
    folder = old.path.parent if file == "manifest.json" else old.path
    (folder / file).write_bytes(b"{}")
    assert embedded(make_project, [shards["a"], shards["f"]]).counts["reused_rows"] == 0
