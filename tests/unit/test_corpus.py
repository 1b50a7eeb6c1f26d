from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from support_drawings import pair, write_shard

from react_pipeline.base import publish_base
from react_pipeline.corpus import check_shards, find_shards, publish_corpus, shard_paths
from react_pipeline.embed import embed_corpus
from react_pipeline.errors import CorpusError
from react_pipeline.lineage import Project

MakeProject = Callable[..., Project]


def test_inventory_lists_every_shard_with_its_digest(tiny_project: Project, drawings: Path) -> None:
    artifact = publish_corpus(tiny_project)
    table = pd.read_parquet(artifact.file("shards.parquet"))
    assert list(table["shard"]) == [0, 1, 2]
    assert shard_paths(artifact) == sorted((drawings / "shards").glob("*.tar"))
    assert artifact.counts == {"shards": 3, "bytes": int(table["bytes"].sum()), "pairs": 96}


def test_patterns_are_sorted_and_give_each_shard_once(tmp_path: Path) -> None:
    for name in ("b/2.tar", "b/1.tar", "a/9.tar", "a/notes.txt"):
        write_shard(tmp_path / name, {"k": pair("circle", "red", 0)})
    (tmp_path / "c.tar").symlink_to(tmp_path / "b/1.tar")
    found = find_shards([str(tmp_path / "b/*"), str(tmp_path / "**/*.tar"), str(tmp_path / "c.tar")])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["b/1.tar", "b/2.tar", "a/9.tar"]


def test_a_folder_with_pattern_characters_is_taken_by_its_name(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "run [1]*" / "0.tar", {"k": pair("circle", "red", 0)})
    assert find_shards([str(tmp_path / "run [1]*" / "*.tar")]) == [shard]


@pytest.mark.parametrize("pattern", ["missing/*.tar", "missing.tar", "*.csv"])
def test_a_pattern_without_a_tar_is_named(make_project: MakeProject, tmp_path: Path, pattern: str) -> None:
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(CorpusError, match="finds no .tar file") as caught:
        publish_corpus(make_project(corpus={"shards": [pattern]}))
    assert pattern in str(caught.value)


def test_a_corpus_without_pairs_is_refused_and_tells_the_extensions(make_project: MakeProject, tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", {"k": {"bmp": b"x", "cls": b"1"}, "l": {"txt": b"a"}})
    with pytest.raises(CorpusError, match=r"no pair in 1 shards.*\['bmp', 'cls', 'txt'\]"):
        publish_corpus(make_project(corpus={"shards": [str(shard)]}))


def test_a_moved_corpus_is_the_same_and_its_new_place_is_used(
    make_project: MakeProject, drawings: Path, tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(drawings / "shards", old)
    before = publish_corpus(make_project(corpus={"shards": [str(old / "*.tar")]}))
    old.rename(new)
    project = make_project(corpus={"shards": [str(new / "*.tar")]})
    after = publish_corpus(project)
    assert after.reused and after.fingerprint == before.fingerprint
    assert shard_paths(after) == sorted(new.glob("*.tar"))
    assert check_shards(project.store, after) == shard_paths(after)


def test_a_changed_shard_makes_another_corpus(make_project: MakeProject, drawings: Path, tmp_path: Path) -> None:
    shutil.copytree(drawings / "shards", tmp_path / "shards")
    project = make_project(corpus={"shards": [str(tmp_path / "shards" / "*.tar")]})
    before = publish_corpus(project)
    write_shard(tmp_path / "shards" / "00001.tar", {"k": pair("circle", "red", 0)})
    after = publish_corpus(project)
    assert after.fingerprint != before.fingerprint
    assert after.counts["pairs"] == 65


def test_a_shard_that_changed_or_went_since_is_refused_before_embedding(
    make_project: MakeProject, drawings: Path, tmp_path: Path
) -> None:
    shutil.copytree(drawings / "shards", tmp_path / "shards")
    project = make_project(corpus={"shards": [str(tmp_path / "shards" / "*.tar")]})
    publish_corpus(project)
    publish_base(project)
    shard = tmp_path / "shards" / "00001.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 0xFF
    shard.write_bytes(data)
    os.utime(shard, (1, 1))
    with pytest.raises(CorpusError, match=r"00001\.tar: has changed"):
        embed_corpus(project)
    shard.unlink()
    with pytest.raises(CorpusError, match=r"00001\.tar: is gone"):
        embed_corpus(project)
