"""Images of chosen rows by URL, from a real server on loopback, and collected."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import support.web
from support.drawings import COLOURS, SHAPES, draw, encode
from support.web import served

from react_pipeline.corpus.collected import CollectedPairs, collect_pairs
from react_pipeline.extensions.ready.corpus_kind import ReadyEmbeddings
from react_pipeline.extensions.web import UrlSource
from react_pipeline.store.artifacts import Artifact, Inputs
from react_pipeline.store.store import Store

IMAGES = [
    encode(draw(SHAPES[n % 4], COLOURS[n // 4 % 4], n), ("png", "jpg", "webp")[n % 3])
    for n in range(12)
]


def corpus(**given: Any) -> ReadyEmbeddings:
    download = {"timeout_seconds": 2, "retries": 0, "allow_private_addresses": True}
    return ReadyEmbeddings.model_validate({"embeddings": "x", "download": download, **given})


def publish(
    store: Path, rows: pd.DataFrame, source: UrlSource, shard_pairs: int
) -> tuple[Artifact, Any]:
    def write(directory: Path, _: object) -> dict[str, int]:
        collected.append(
            collect_pairs(source.fetch(rows), directory / "shards", shard_pairs, len(rows))
        )
        return {"pairs": len(collected[0])}

    collected: list[Any] = []
    return Store(store).build(Inputs("retrieved_set", "pets", {}, {}, "1"), write), collected[0]


def test_pairs_from_urls_are_fetched_once_with_every_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    support.web.keep_img2dataset_loaded(monkeypatch)
    answers = {f"/{n}": image for n, image in enumerate(IMAGES)} | {"/3": support.web.page}
    with served(answers) as web:
        rows = pd.DataFrame(
            {
                "row": range(14),
                "url": [*(f"{web.url}/{n}" for n in range(12)), f"{web.url}/gone", "pipe:id"],
                "caption": [" one ", None, *(f"caption {n}" for n in range(2, 13)), "y" * 3_000],
                "class": ["a", "b"] * 7,
                "image_sha256": "",
            }
        )
        source = UrlSource(corpus(), tmp_path / "fetched")
        fetched = {
            pair.row: pair.image_sha256
            for pair, _ in source.fetch(rows.sample(frac=1, random_state=1))
        }
        artifact, collected = publish(tmp_path / "store", rows, source, 4)
        assert dict(web.asked) == dict.fromkeys(
            ["/0", *(f"/{n}" for n in range(2, 12)), "/gone"], 1
        )
        again = collect_pairs(
            source.fetch(rows.sample(frac=1, random_state=2)), tmp_path / "again", 4, len(rows)
        )
        assert sum(web.asked.values()) == 12

    kept = [0, 2, *range(4, 12)]
    reasons = {1: "empty_caption", 3: "not_an_image", 12: "http_404", 13: "refused_url"}
    assert source.failed == reasons
    assert dict(source.ledger[["row", "attempts"]].to_numpy().tolist()) == {
        1: 0,
        3: 1,
        12: 1,
        13: 0,
    }
    assert list(source.ledger["url"])[-1] == "pipe:id"
    assert list(collected) == list(again) == kept == list(fetched)
    assert len(list((tmp_path / "again").glob("*.tar"))) == 3
    assert [image for _, image, _, _ in CollectedPairs(artifact)] == [IMAGES[row] for row in kept]
    assert [caption for _, _, caption, _ in CollectedPairs(artifact)][:2] == ["one", "caption 2"]
    digests = [hashlib.sha256(IMAGES[row]).hexdigest() for row in kept]
    assert list(fetched.values()) == digests
    for path in sorted((tmp_path / "again").iterdir()):
        assert path.read_bytes() == (artifact.path / "shards" / path.name).read_bytes()


def test_two_at_once_fetch_an_image_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    support.web.keep_img2dataset_loaded(monkeypatch)
    with served({f"/{n}": image for n, image in enumerate(IMAGES)}) as web:
        urls = [f"{web.url}/{n}" for n in range(12)]
        rows = pd.DataFrame({"row": range(12), "url": urls, "caption": "a", "class": ""})
        sources = [UrlSource(corpus(), tmp_path) for _ in range(2)]
        with ThreadPoolExecutor() as threads:
            first, second = threads.map(lambda source: list(source.fetch(rows)), sources)
        assert set(web.asked.values()) == {1} and len(first) == len(second) == 12


def test_another_file_than_a_table_demands_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    support.web.keep_img2dataset_loaded(monkeypatch)
    sha256 = hashlib.sha256(IMAGES[1]).hexdigest()
    with served({"/0": IMAGES[0]}) as web:
        rows = pd.DataFrame(
            {"row": [0], "url": [f"{web.url}/0"], "caption": ["a"], "hash": [sha256]}
        )
        assert list(UrlSource(corpus(), tmp_path).fetch(rows))
        demanding = UrlSource(corpus(hash_column="hash"), tmp_path)
        assert not list(demanding.fetch(rows))
        assert demanding.failed == {0: "hash_mismatch"}
        web.answers["/0"] = IMAGES[1]
        ((_, image),) = UrlSource(corpus(hash_column="hash"), tmp_path).fetch(rows)
        assert image == IMAGES[1]


def test_where_nothing_is_available_the_reasons_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    support.web.keep_img2dataset_loaded(monkeypatch)
    with served({}) as web:
        rows = pd.DataFrame(
            {"row": [5, 2], "url": [f"{web.url}/0", "pipe:id"], "caption": ["x", "y"]}
        )
        source = UrlSource(corpus(), tmp_path)
        assert list(source.fetch(rows)) == []
    assert source.failed == {5: "http_404", 2: "refused_url"}


def test_rows_of_one_url_share_image_and_long_captions_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    support.web.keep_img2dataset_loaded(monkeypatch)
    with served({"/0": IMAGES[0]}) as web:
        rows = pd.DataFrame(
            {
                "row": [5, 2],
                "url": [f"{web.url}/0"] * 2,
                "caption": ["x" * 50, "short"],
                "class": "",
            }
        )
        got = list(UrlSource(corpus(max_caption_chars=10), tmp_path).fetch(rows))
        assert web.asked["/0"] == 1
    assert [(pair.row, pair.caption, data) for pair, data in got] == [
        (2, "short", IMAGES[0]),
        (5, "x" * 10, IMAGES[0]),
    ]
