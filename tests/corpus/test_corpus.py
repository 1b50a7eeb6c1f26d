from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from support.drawings import pair, write_shard
from support.shard_server import ShardServer, serve_folder

from react_pipeline.clip.base import publish_base
from react_pipeline.corpus import publish_corpus, remote
from react_pipeline.corpus.inventory import check_shards, shard_paths
from react_pipeline.corpus.remote import RemoteShard
from react_pipeline.embedding.embed import embed_corpus
from react_pipeline.project.project import Project
from react_pipeline.settings import StorageConfig
from react_pipeline.store.errors import CorpusError

MakeProject = Callable[..., Project]
ANY = StorageConfig()


@pytest.fixture
def server(
    drawings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ShardServer]:
    monkeypatch.setattr(remote, "RETRIES", 3)
    shutil.copytree(drawings / "shards", tmp_path / "served")
    with serve_folder(tmp_path / "served") as state:
        yield state


def test_inventory_lists_every_shard_with_its_digest(tiny_project: Project, drawings: Path) -> None:
    artifact = publish_corpus(tiny_project)
    table = pd.read_parquet(artifact.file("shards.parquet"))
    assert list(table["shard"]) == [0, 1, 2]
    assert shard_paths(artifact, ANY) == sorted((drawings / "shards").glob("*.tar"))
    assert list(table["path"]) == ["00000.tar", "00001.tar", "00002.tar"]
    counts = {"shards": 3, "bytes": int(table["bytes"].sum())}
    assert artifact.counts == {**counts, "root": str(drawings / "shards")}


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
    for path, error in (
        (tmp_path / "gone.jpg", CorpusError),
        (tmp_path, CorpusError),
        (tiny_project.store.root / "pruned", FileNotFoundError),
    ):
        monkeypatch.setattr(
            type(tiny_project.config.corpus), "publish", lambda *_, path=path: path.read_bytes()
        )
        with pytest.raises(error, match=re.escape(str(path))):
            publish_corpus(tiny_project)


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
    assert shard_paths(after, ANY) == sorted(new.glob("*.tar"))
    assert check_shards(project.store, after, ANY) == shard_paths(after, ANY)
    write_shard(new / "00001.tar", {"k": pair("circle", "red", 0)})
    assert publish_corpus(project).fingerprint != before.fingerprint


def test_a_shard_changed_or_gone_is_refused_before_embedding(
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
    with pytest.raises(CorpusError, match=r"00001\.tar"):
        embed_corpus(project)
    shard.unlink()
    with pytest.raises(CorpusError, match=r"00001\.tar"):
        embed_corpus(project)


def test_local_and_remote_shards_make_one_corpus_in_order_given(
    make_project: MakeProject, server: ShardServer, drawings: Path
) -> None:
    local = drawings / "shards" / "00002.tar"
    project = make_project(
        corpus={
            "shards": [f"{server.url}/00001.tar", str(local), f"{server.url}/{{00001,00000}}.tar"]
        }
    )
    artifact = publish_corpus(project)
    wanted = [RemoteShard(f"{server.url}/00001.tar"), local, RemoteShard(f"{server.url}/00000.tar")]
    with serve_folder(server.folder) as other:
        names = [f"{other.url}/00001.tar", str(local), f"{other.url}/00000.tar"]
        moved = publish_corpus(make_project(corpus={"shards": names}))
        assert moved.reused and moved.fingerprint == artifact.fingerprint
        assert str(check_shards(project.store, moved, ANY)[2]) == names[2]
    publish_corpus(project)
    assert check_shards(project.store, artifact, ANY) == wanted
    # Also where the memory of places was lost.
    shutil.rmtree(project.store.root / ".places")
    assert shard_paths(artifact, ANY) == wanted


def test_a_changed_remote_shard_is_noticed_without_reading_it(
    make_project: MakeProject, server: ShardServer
) -> None:
    project = make_project(corpus={"shards": [f"{server.url}/{{00000..00002}}.tar"]})
    before = publish_corpus(project)
    server.requests.clear()
    data = bytearray((server.folder / "00001.tar").read_bytes())
    data[600] ^= 0xFF
    (server.folder / "00001.tar").write_bytes(data)
    with pytest.raises(CorpusError, match=r"http://.*00001\.tar"):
        check_shards(project.store, before, ANY)
    assert not server.requests
    assert publish_corpus(project).fingerprint != before.fingerprint
    (server.folder / "00001.tar").unlink()
    with pytest.raises(CorpusError, match=r"00001\.tar"):
        check_shards(project.store, before, ANY)
