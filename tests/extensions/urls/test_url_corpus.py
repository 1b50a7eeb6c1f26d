"""A corpus from a table of URLs, its images served on loopback, some of them broken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.drawings import COLOURS, SHAPES, draw, encode
from support.web import Web, keep_img2dataset_loaded, page, served

from react_pipeline.corpus import shards
from react_pipeline.corpus.corpus import publish_corpus
from react_pipeline.corpus.inventory import check_shards
from react_pipeline.corpus.shards import index_shard, open_shard, read_member
from react_pipeline.extensions.urls import corpus as url_corpus
from react_pipeline.lineage import fresh
from react_pipeline.project import identity
from react_pipeline.project.project import Project
from react_pipeline.store.artifacts import Inputs
from react_pipeline.store.errors import CorpusError

MakeProject = Callable[..., Project]
GOOD = 12


def drawing(number: int) -> tuple[bytes, str]:
    shape, colour = SHAPES[number % 4], COLOURS[number // 4 % 4]
    return encode(
        draw(shape, colour, number), ("png", "jpg", "webp")[number % 3]
    ), f"a {colour} {shape} {number}"


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    keep_img2dataset_loaded(monkeypatch)
    answers: dict[str, Any] = {f"/{number}": drawing(number)[0] for number in range(40)}
    with served({**answers, "/page": page, "/broken": b"no image at all"}) as server:
        yield server


def rows_of(web: Web, numbers: range) -> list[tuple[str, str]]:
    return [(f"{web.url}/{number}", drawing(number)[1]) for number in numbers]


def write_table(directory: Path, rows: list[tuple[str | None, str | None]]) -> Path:
    path = directory / "pairs.parquet"
    pd.DataFrame(rows, columns=["url", "caption"]).to_parquet(path)
    return path


def corpus_of(make_project: MakeProject, table: Path, **download: Any) -> Project:
    settings = {"allow_private_addresses": True, "retries": 0, "timeout_seconds": 5, **download}
    return make_project(corpus={"kind": "urls", "urls": [str(table)], "download": settings})


def pairs_in(project: Project) -> dict[str, tuple[bytes, bytes]]:
    """Caption -> image and metadata, read from the shards."""
    found = {}
    for path in check_shards(project.store, project.store.current("corpus", "all")):
        with open_shard(path) as file:
            for sample in index_shard(path).samples:
                assert sample.image and sample.metadata
                caption = read_member(file, sample.members["txt"]).decode()
                found[caption] = (
                    read_member(file, sample.image),
                    read_member(file, sample.metadata),
                )
    return found


def test_images_become_shards_and_missing_ones_are_recorded(
    make_project: MakeProject, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "PAIRS_PER_SHARD", 5)
    bad = [(f"{web.url}/page", "x"), (f"{web.url}/broken", "x"), (f"{web.url}/gone", "x")]
    table = write_table(
        tmp_path, [*rows_of(web, range(GOOD)), *bad, (f"{web.url}/1", "again"), (None, "x")]
    )
    project = corpus_of(make_project, table)
    artifact = publish_corpus(project)
    assert [index_shard(path).pairs() for path in check_shards(project.store, artifact)] == [
        5,
        5,
        2,
    ]
    found = pairs_in(project)
    assert found.keys() == {drawing(number)[1] for number in range(GOOD)}
    for number in range(GOOD):
        image, caption = drawing(number)
        kept, about = found[caption]
        assert kept == image
        assert f'"{web.url}/{number}"'.encode() in about
    ledger = pd.read_parquet(artifact.file("failed.parquet")).set_index("url")["reason"]
    assert dict(ledger) == {
        f"{web.url}/page": "not_an_image",
        f"{web.url}/broken": "not_an_image",
        f"{web.url}/gone": "http_404",
    }
    counts = artifact.counts
    assert (counts["pairs"], counts["failed"], counts["taken_over"]) == (GOOD, 3, 0)
    assert counts["skipped"] == {"duplicate_url": 1, "no_url": 1}
    assert not (artifact.path / "work").exists()
    assert publish_corpus(project).reused
    assert fresh(project, "corpus").fingerprint == artifact.fingerprint


def test_a_changed_table_costs_only_requests_for_what_is_new(
    make_project: MakeProject, web: Web, tmp_path: Path
) -> None:
    late = (f"{web.url}/late", "late")
    table = write_table(tmp_path, [*rows_of(web, range(GOOD)), late])
    first = publish_corpus(corpus_of(make_project, table))

    # Grown: neither what was had nor what had failed is asked for again.
    web.asked.clear()
    web.answers["/late"] = drawing(0)[0]
    write_table(tmp_path, [*rows_of(web, range(GOOD + 3)), late])
    second = publish_corpus(corpus_of(make_project, table))
    assert set(web.asked) == {f"/{number}" for number in range(GOOD, GOOD + 3)}
    assert second.fingerprint != first.fingerprint
    assert (second.counts["pairs"], second.counts["taken_over"], second.counts["failed"]) == (
        GOOD + 3,
        GOOD,
        1,
    )
    # The shard that was there is the same, so its embedding stays valid.
    before, after = (
        pd.read_parquet(artifact.file("shards.parquet"))["sha256"] for artifact in (first, second)
    )
    assert after[0] == before[0]

    # More retries: what failed is tried again, and nothing else. Another caption: that pair is made
    # anew.
    web.asked.clear()
    write_table(
        tmp_path, [(f"{web.url}/0", "better words"), *rows_of(web, range(1, GOOD + 3)), late]
    )
    project = corpus_of(make_project, table, retries=1)
    assert publish_corpus(project).counts["failed"] == 0
    assert set(web.asked) == {"/late", "/0"}
    others = {drawing(number)[1] for number in range(1, GOOD + 3)}
    assert pairs_in(project).keys() == {"late", "better words", *others}

    # Shrunk: what left the table leaves the corpus, without a request.
    web.asked.clear()
    write_table(tmp_path, rows_of(web, range(1, GOOD + 3)))
    publish_corpus(project)
    assert not web.asked
    assert pairs_in(project).keys() == others


def test_images_resized_by_another_rule_are_not_taken_over(
    make_project: MakeProject, tmp_path: Path
) -> None:
    project = corpus_of(make_project, tmp_path / "pairs.parquet", image_size=40)
    config = identity.corpus(project, "all")
    for recorded, is_taken in (
        (config["image_size"], True),
        (40, False),
    ):  # of the longer side: the number alone
        older = Inputs("corpus", "all", {**config, "image_size": recorded}, {}, "1")
        project.store.build(older, lambda *_: {})
        assert (url_corpus._earlier(project, project.config.corpus) is not None) == is_taken
    as_they_came = corpus_of(make_project, tmp_path / "pairs.parquet")
    assert (
        identity.corpus(as_they_came, "all")["image_size"] is None
    )  # as ever: such stores stay fresh


def test_too_many_failures_stop_the_corpus_and_keep_the_rest(
    make_project: MakeProject, web: Web, tmp_path: Path
) -> None:
    missing = [(f"{web.url}/late{number}", f"late {number}") for number in range(8)]
    table = write_table(tmp_path, [*rows_of(web, range(2)), *missing])
    for url, _ in missing:
        web.answers[url.removeprefix(web.url)] = b"not yet an image"
    with pytest.raises(CorpusError, match=r"not_an_image"):
        publish_corpus(corpus_of(make_project, table))
    web.asked.clear()
    for url, _ in missing:
        web.answers[url.removeprefix(web.url)] = drawing(5)[0]
    project = corpus_of(make_project, table)
    assert publish_corpus(project).counts["pairs"] == 10
    assert set(web.asked) == {url.removeprefix(web.url) for url, _ in missing}


def test_private_addresses_are_refused_whatever_is_allowed(
    make_project: MakeProject, web: Web, tmp_path: Path
) -> None:
    table = write_table(tmp_path, rows_of(web, range(2)))
    with pytest.raises(CorpusError, match=r"private_address"):
        publish_corpus(
            corpus_of(make_project, table, allow_private_addresses=False, max_failed_fraction=1)
        )
    assert not web.asked


def test_a_table_without_a_usable_row_is_refused(make_project: MakeProject, tmp_path: Path) -> None:
    table = write_table(tmp_path, [(None, "x"), ("http://a/1", None)])
    with pytest.raises(CorpusError, match="no_url"):
        publish_corpus(corpus_of(make_project, table))


@pytest.mark.slow
@pytest.mark.operations
def test_a_killed_download_is_picked_up_where_it_was(
    make_project: MakeProject, web: Web, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"

    def slow(handler: Any, before: int) -> None:
        # The rest of the table waits until the process is killed.
        while not gate.exists():
            time.sleep(0.02)

    good = {f"/{number}": web.answers[f"/{number}"] for number in range(GOOD)}
    for number in range(8, GOOD):
        web.answers[f"/{number}"] = slow
    project = corpus_of(make_project, write_table(tmp_path, rows_of(web, range(GOOD))), threads=4)
    code = (
        "from pathlib import Path; import sys; from react_pipeline.corpus import corpus;from "
        "react_pipeline.extensions.urls import corpus as url_corpus;url_corpus.PART_ROWS = 4;from "
        "react_pipeline.project.project import Project; "
        "corpus.publish_corpus(Project.load(Path(sys.argv[1])))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(project.path)], start_new_session=True
    )
    deadline = time.monotonic() + 180
    while not any(web.asked[f"/{number}"] for number in range(8, GOOD)):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    gate.touch()
    assert not (project.config.store / "corpus").exists()
    web.answers |= good
    web.asked.clear()
    assert publish_corpus(project).counts["pairs"] == GOOD
    assert set(web.asked) == {f"/{number}" for number in range(8, GOOD)}
    assert len(pairs_in(project)) == GOOD
