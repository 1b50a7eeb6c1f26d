from __future__ import annotations

import errno
import io
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
from support.drawings import pair, write_shard
from support.web import ShardServer, serve_folder

from react_pipeline.corpus import corpus_parts, progress_lines, publish_corpus, remote
from react_pipeline.corpus.corpus import checked_shards, shard_digests
from react_pipeline.corpus.progress_lines import progress
from react_pipeline.project import Project
from react_pipeline.store import Artifact, CorpusError

MakeProject = Callable[..., Project]


@pytest.fixture
def server(
    drawings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ShardServer]:
    monkeypatch.setattr(remote, "RETRIES", 3)
    shutil.copytree(drawings / "shards", tmp_path / "served")
    with serve_folder(tmp_path / "served") as state:
        yield state


def places(project: Project, corpus: Artifact) -> list[object]:
    return list(shard_digests(project.config.corpus, corpus))


def checked(project: Project, corpus: Artifact) -> dict[Any, str]:
    return checked_shards(project.config.corpus, project.store, corpus)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("missing/*.tar", "there is no file or folder .*missing"),
        ("missing.tar", r"there is no file or folder .*missing\.tar"),
        ("*.csv", "finds no .tar file"),
        ("URL/{00000..00003}.tar", r"00003\.tar"),
        ("URL/notes.txt", r"notes\.txt"),
        ("no-pair.tar", "'bmp'"),
    ],
)
def test_what_names_no_pairs_is_refused(
    make_project: MakeProject, tmp_path: Path, server: ShardServer, pattern: str, words: str
) -> None:
    (tmp_path / "x.csv").write_text("")
    write_shard(tmp_path / "no-pair.tar", {"k": {"bmp": b"x", "cls": b"1"}, "l": {"txt": b"a"}})
    pattern = pattern.replace("URL", server.url)
    with pytest.raises(CorpusError, match=words):
        publish_corpus(make_project(corpus={"shards": [pattern]}))


def test_what_a_kind_does_not_find_is_named_unless_of_the_store(
    tiny_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, fault, error in (
        (tmp_path / "gone.jpg", FileNotFoundError, CorpusError),
        (tmp_path, IsADirectoryError, CorpusError),
        (tiny_project.store.root / "pruned", FileNotFoundError, FileNotFoundError),
    ):
        publish = Mock(side_effect=fault(errno.EIO, "not read", str(path)))
        monkeypatch.setattr(type(tiny_project.config.corpus), "publish", publish)
        with pytest.raises(error, match=re.escape(str(path))):
            publish_corpus(tiny_project)


def test_a_moved_corpus_is_the_same_and_its_new_place_is_used(
    make_project: MakeProject, drawings: Path, tmp_path: Path
) -> None:
    old, new = tmp_path / "tars/old", tmp_path / "tars/new"
    shutil.copytree(drawings / "shards", old)
    before = publish_corpus(make_project(corpus={"shards": [str(old / "*.tar")]}))
    table = pd.read_parquet(before.file("shards.parquet"))
    assert list(table["shard"]) == [0, 1, 2]
    assert list(table["name"]) == ["00000.tar", "00001.tar", "00002.tar"]
    size_bytes = int(table["bytes"].sum())
    assert before.counts == {"shards": 3, "bytes": size_bytes}
    old.rename(new)
    project = make_project(corpus={"shards": [str(tmp_path / "tars/*/*.tar")]})
    after = publish_corpus(project)
    assert after.reused and after.fingerprint == before.fingerprint
    added = [new / "00000b.tar", tmp_path / "tars/a/00000.tar"]
    for path in added:
        write_shard(path, {"k": pair("circle", "red", 0)})
    assert places(project, before) == [new / name for name in table["name"]]
    for path in added:
        path.unlink()
    shard = new / "00001.tar"
    assert checked(project, after)[shard] == table["sha256"][1]
    write_shard(shard, {"k": pair("circle", "red", 0)})
    os.utime(shard, (1, 1))
    with pytest.raises(CorpusError, match=r"00001\.tar"):
        next(corpus_parts(project.store, project.config.corpus, after))
    assert publish_corpus(project).fingerprint != before.fingerprint
    shard.unlink()
    with pytest.raises(CorpusError, match=r"00001\.tar"):
        next(corpus_parts(project.store, project.config.corpus, after))


def test_local_and_remote_shards_make_one_corpus_in_order_given(
    make_project: MakeProject, server: ShardServer, drawings: Path
) -> None:
    local = drawings / "shards" / "00002.tar"
    names = [f"{server.url}/00001.tar", str(local), f"{server.url}/{{00001,00000}}.tar"]
    project = make_project(corpus={"shards": names})
    artifact = publish_corpus(project)
    wanted = [f"{server.url}/00001.tar", local, f"{server.url}/00000.tar"]
    with serve_folder(server.folder) as other:
        names = [f"{other.url}/00001.tar", str(local), f"{other.url}/00000.tar"]
        elsewhere = make_project(corpus={"shards": names})
        moved = publish_corpus(elsewhere)
        assert moved.reused and moved.fingerprint == artifact.fingerprint
        assert [*map(str, checked(elsewhere, moved))] == names
    assert list(checked(project, artifact)) == wanted
    shard = server.folder / "00001.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 0xFF
    for change in (lambda: shard.write_bytes(data), shard.unlink):
        change()
        server.requests.clear()
        with pytest.raises(CorpusError, match=r"http://.*00001\.tar"):
            checked(project, artifact)
        assert not server.requests


def test_a_loop_without_a_terminal_logs_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(progress_lines, "LINE_SECONDS", 0)
    caplog.set_level(logging.INFO)
    assert list(progress(range(2), "drawing", "image", 2_000)) == [0, 1]
    assert list(progress(range(1), "looking", "shard")) == [0]
    assert caplog.messages == [
        "drawing: 1 of 2,000 images",
        "drawing: 2 of 2,000 images",
        "looking: 1 shards",
    ]
