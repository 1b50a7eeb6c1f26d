"""Shards on a web server and on an object store: read by range, identified, tried again, refused by
name; and embedded as local ones are.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import boto3
import pandas as pd
import pytest
from support.bucket import BucketServer
from support.drawings import pair, write_shard
from support.sick_servers import sick_server
from support.stages import run_corpus
from support.vectors import read_vectors
from support.web import ShardServer, serve_folder

from react_pipeline.corpus import (
    Webdataset,
    find_remote,
    identify,
    index_shard,
    open_shard,
    open_source,
    read_member,
    remote,
)
from react_pipeline.corpus.image_source import LOCATION
from react_pipeline.embedding import embed_corpus, read_metadata
from react_pipeline.project import Project
from react_pipeline.store import CorpusError, SourceUnavailable

MakeProject = Callable[..., Project]
LARGE = bytes(range(256)) * 8_000
"""An "image" of 2 MB: indexing reads headers, never pixels."""


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RETRIES", 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    samples = {f"{number:03d}": pair("circle", "red", number, number=number) for number in range(5)}
    write_shard(tmp_path / "served" / "small.tar", samples)
    big = {f"{number:03d}": {"jpg": LARGE, "txt": b"a caption"} for number in range(4)}
    write_shard(tmp_path / "served" / "large.tar", big)
    many = {f"{number:04d}": {"jpg": LARGE[:20_000], "txt": b"a"} for number in range(200)}
    write_shard(tmp_path / "served" / "many.tar", many)
    return tmp_path / "served"


@pytest.fixture
def web(folder: Path) -> Iterator[ShardServer]:
    with serve_folder(folder) as state:
        yield state


@pytest.mark.parametrize("name", ["small.tar", "large.tar", "many.tar"])
def test_a_remote_shard_reads_like_the_local_one(web: ShardServer, folder: Path, name: str) -> None:
    shard = f"{web.url}/{name}"
    here, there = index_shard(folder / name), index_shard(shard)
    assert there == here
    if name == "large.tar":  # headers, without the images between them
        assert web.sent_bytes < (folder / name).stat().st_size / 10
    assert web.requests[f"/{name}"] < 20
    with open_shard(shard) as file, (folder / name).open("rb") as local:
        for sample in reversed(here.samples):
            for member in sample.members.values():
                assert read_member(file, member) == read_member(local, member)


def test_a_shard_is_identified_by_what_its_server_reports(web: ShardServer, folder: Path) -> None:
    shutil.copy(folder / "small.tar", folder / "other.tar")
    shard = f"{web.url}/small.tar"
    before, other = identify(shard), identify(f"{web.url}/other.tar")
    assert before == identify(shard)
    assert before.size_bytes == other.size_bytes and before.digest != other.digest
    with (
        serve_folder(folder, tagged=False) as silent,
        pytest.raises(CorpusError, match=r"small\.tar.*neither ETag"),
    ):
        identify(f"{silent.url}/small.tar")


def test_a_server_without_ranges_or_of_another_size_is_refused(
    web: ShardServer, folder: Path
) -> None:
    with (
        serve_folder(folder, ranges=False) as other,
        pytest.raises(CorpusError, match="no ranges"),
    ):
        index_shard(f"{other.url}/large.tar")
    with open_shard(f"{web.url}/large.tar") as file:
        (folder / "large.tar").write_bytes(bytes(100))
        with pytest.raises(SourceUnavailable, match="received 100 of"):
            file.read(512)


def test_failures_that_may_pass_are_tried_again(web: ShardServer) -> None:
    web.answers["/small.tar"] = [503, 429, 500]
    assert index_shard(f"{web.url}/small.tar").pairs() == 5
    web.answers["/small.tar"] = [503] * 50
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{probe.getsockname()[1]}"
    for url in (web.url, gone):
        with pytest.raises(SourceUnavailable, match=r"small\.tar"):
            index_shard(f"{url}/small.tar")


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, "is not there"), (403, "refused.*AWS_SKIP_SIGNATURE"), (401, "credentials")],
)
def test_what_no_retry_can_fix_is_refused_at_once(
    web: ShardServer, status: int, words: str
) -> None:
    web.answers["/small.tar"] = [status] * 50
    with pytest.raises(CorpusError, match=rf"small\.tar: .*{words}"):
        index_shard(f"{web.url}/small.tar")
    assert web.requests["/small.tar"] == 1


def test_shards_of_a_bucket_are_listed_read_and_identified(
    server: BucketServer, folder: Path
) -> None:
    bucket = boto3.client("s3", endpoint_url=server.address, region_name="us-east-1")
    bucket.create_bucket(Bucket="pairs")
    for name in ("b/small.tar", "b/large.tar", "b/small.txt", "c/small.tar"):
        file = (folder / Path(name).name).with_suffix(".tar")
        bucket.upload_file(str(file), "pairs", name)
    found = find_remote("s3://pairs/b/*", "")
    assert found == ["s3://pairs/b/large.tar", "s3://pairs/b/small.tar"]
    assert len(find_remote("s3://pairs/**/*.tar", "")) == 3
    (small,) = find_remote("s3://pairs/[!c]/s*.tar", "")
    assert small == found[1]
    assert index_shard(found[0]) == index_shard(folder / "large.tar")
    before = identify(found[1])
    bucket.upload_file(str(folder / "large.tar"), "pairs", "b/small.tar")
    assert identify(found[1]).digest != before.digest
    with pytest.raises(CorpusError, match=r"gone\.tar"):
        identify("s3://pairs/gone.tar")
    named = ("s3://pairs/{c,b}/small.tar", "s3://pairs/b/*")
    located = Webdataset(shards=named).sources()
    assert located == [
        *("s3://pairs/c/small.tar", "s3://pairs/b/small.tar", "s3://pairs/b/large.tar")
    ]
    with pytest.raises(CorpusError, match=r"s3://nobucket/\*\.tar.*AWS_SKIP_SIGNATURE=true"):
        Webdataset(shards=("s3://nobucket/*.tar",)).sources()


@pytest.mark.parametrize(
    "kind",
    [
        "overloaded",
        "dripping_head",
        "dripping_body",
        "dripping_range",
        "endless_range",
        "endless_body",
        "looping",
    ],
)
def test_a_sick_server_is_given_up(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "ANSWER_SECONDS", 0.3)
    # Which fault the client meets first depends on time.
    errors = (CorpusError, SourceUnavailable)
    with sick_server(kind) as address, pytest.raises(errors, match=r"a\.tar: "):
        open_shard(f"{address}/a.tar").read(512)


def test_remote_shards_give_embeddings_and_images_of_local_ones(
    make_project: MakeProject, indexed_project: Project, drawings: Path
) -> None:
    with serve_folder(drawings / "shards") as server:
        project = make_project(
            store="remote",
            corpus={"shards": [f"{server.url}/{{00000..00002}}.tar"]},
            embedding={"workers": 1, "batch_size": 32},
        )
        there = run_corpus(project, "corpus_embeddings")
        local = indexed_project.store.current("corpus_embeddings", "all")
        pd.testing.assert_frame_equal(read_metadata(there), read_metadata(local))
        for side in ("image", "text"):
            expected = pytest.approx(read_vectors(local, side), abs=1e-3)
            assert read_vectors(there, side) == expected
        rows = read_metadata(there, LOCATION).iloc[[1, 40, 95]].rename_axis("row").reset_index()
        got = list(open_source(project, project.store.current("corpus", "all")).fetch(rows))
        assert [pair.row for pair, _image in got] == [1, 40, 95]


def test_a_dying_server_is_named_and_finished_shards_are_kept(
    make_project: MakeProject, drawings: Path
) -> None:
    with serve_folder(drawings / "shards") as server:
        project = make_project(corpus={"shards": [f"{server.url}/{{00000..00002}}.tar"]})
        run_corpus(project, "base_checkpoint")
        server.answers["/00002.tar"] = [503] * 100
        with pytest.raises(SourceUnavailable, match=r"00002\.tar: .*after 3 retries"):
            embed_corpus(project)
        server.answers.clear()
        server.requests.clear()
        assert embed_corpus(project).counts["rows"] == 96
        assert set(server.requests) == {"/00002.tar"}


def test_no_more_is_read_than_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def sent(*_given: object, **_options: object) -> Iterator[bytes]:
        yield from (b"12345", b"67890")
        pytest.fail("more was asked for")

    library = SimpleNamespace(head=lambda *_: {"size": 8}, get=sent)
    monkeypatch.setattr(remote, "_client", lambda _shard: nullcontext((library, None, "")))
    with pytest.raises(SourceUnavailable, match="received 10 of 8 bytes"):
        open_shard("s3://bucket/a.tar").read()
