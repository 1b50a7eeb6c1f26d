"""Downloading by img2dataset from a real server on loopback: nothing twice, every failure on
record.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import support.web
from PIL import Image
from support.deadly_images import MARK
from support.drawings import COLOURS, SHAPES, draw, encode
from support.web import Web, served

from react_pipeline.extensions.web import downloads
from react_pipeline.extensions.web.download_journal import reason_of
from react_pipeline.extensions.web.downloads import Downloaded, download_images
from react_pipeline.settings.corpus import DownloadConfig
from react_pipeline.store.errors import CorpusError

MAX_PIXELS = 10_000
IMAGES = {
    f"/{number}.png": encode(
        draw(SHAPES[number % 4], COLOURS[number % 3], number), ("png", "jpg", "webp")[number % 3]
    )
    for number in range(6)
}
BROKEN: dict[str, tuple[Any, str, int]] = {
    # path: (answer, reason, attempts with one retry)
    "/gone.jpg": (None, "http_404", 1),
    "/page.jpg": (support.web.page, "not_an_image", 2),
    "/cut.jpg": (support.web.cut(IMAGES["/0.png"]), "truncated", 2),
    "/half.png": (IMAGES["/0.png"][:200], "truncated", 2),
    "/hanging.jpg": (support.web.hanging, "timeout", 2),
    "/bomb.png": (encode(Image.new("1", (200, 200))), "too_many_pixels", 1),
    "/no.jpg": (
        lambda handler, _: support.web.send(handler, IMAGES["/0.png"], X_Robots_Tag="noai"),
        "disallowed_by_header",
        1,
    ),
    "/away.jpg": (support.web.redirected("file:///etc/hostname"), "refused_url", 1),
    "/empty.jpg": (b"", "empty", 2),
}


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    support.web.keep_img2dataset_loaded(monkeypatch)
    monkeypatch.setattr(downloads, "_PAUSE_SECONDS", 0.01)
    answers = IMAGES | {
        path: answer for path, (answer, _, _) in BROKEN.items() if answer is not None
    }
    with served(
        {**answers, "/later.png": support.web.failing_first(1, IMAGES["/1.png"])}
    ) as server:
        yield server


def table_of(web: Web, *paths: str) -> pd.DataFrame:
    return pd.DataFrame(
        {"row": range(100, 100 + len(paths)), "url": [web.url + path for path in paths]}
    )


def download(table: pd.DataFrame, directory: Path, **settings: Any) -> Downloaded:
    given = {
        "timeout_seconds": 2,
        "retries": 1,
        "allow_private_addresses": True,
        "threads": 16,
        **settings,
    }
    return download_images(table, directory, DownloadConfig(**given), MAX_PIXELS)


def test_good_images_come_and_failures_have_reason_and_attempts(web: Web, tmp_path: Path) -> None:
    table = table_of(web, *IMAGES, *BROKEN, "/later.png")
    odd = pd.DataFrame({"row": [7, 8], "url": ["file:///etc/hostname", None]})
    done = download(pd.concat([table, odd], ignore_index=True), tmp_path / "images")

    assert list(done.images["row"]) == [*range(100, 106), 115], done.failed.to_string()
    for row, data in zip(done.images["row"], [*IMAGES.values(), IMAGES["/1.png"]], strict=True):
        assert done.read(row) == data
    assert done.images["source_sha256"][0] == hashlib.sha256(IMAGES["/0.png"]).hexdigest()
    found = {row.row: (row.reason, row.attempts) for row in done.failed.itertuples()}
    expected = {
        106 + number: (reason, tried) for number, (_, reason, tried) in enumerate(BROKEN.values())
    }
    assert found == {**expected, 7: ("refused_url", 0), 8: ("refused_url", 0)}
    assert dict(web.asked) == {
        **dict.fromkeys(IMAGES, 1),
        **{path: tried for path, (_, _, tried) in BROKEN.items()},
        "/later.png": 2,
    }

    # Again: everything is on record, nothing is asked for, the result is the same.
    before = dict(web.asked)
    again = download(pd.concat([table, odd], ignore_index=True), tmp_path / "images")
    assert dict(web.asked) == before
    pd.testing.assert_frame_equal(again.images, done.images)
    pd.testing.assert_frame_equal(again.failed, done.failed)


def test_a_grown_table_fetches_only_new_urls_once(web: Web, tmp_path: Path) -> None:
    download(table_of(web, "/0.png", "/1.png"), tmp_path)
    done = download(table_of(web, "/2.png", "/0.png", "/2.png"), tmp_path)
    assert [done.read(row) for row in (100, 101, 102)] == [
        IMAGES["/2.png"],
        IMAGES["/0.png"],
        IMAGES["/2.png"],
    ]
    assert dict(web.asked) == {"/0.png": 1, "/1.png": 1, "/2.png": 1}

    # Without leave, what is on loopback is not even asked for.
    refused = download(table_of(web, "/0.png", "/3.png"), tmp_path, allow_private_addresses=False)
    assert refused.failed[["row", "reason", "attempts"]].to_numpy().tolist() == [
        [101, "private_address", 1]
    ]
    assert "/3.png" not in web.asked


def test_a_file_with_another_hash_is_refused_and_not_refetched(web: Web, tmp_path: Path) -> None:
    first, second = list(IMAGES.values())[:2]
    hashes = [
        *(
            hashlib.sha256(first).hexdigest(),
            hashlib.new("md5", second, usedforsecurity=False).hexdigest().upper(),
            None,
        ),
        *(
            hashlib.sha256(b"x").hexdigest(),
            hashlib.new("md5", b"x", usedforsecurity=False).hexdigest(),
        ),
    ]
    done = download(table_of(web, *list(IMAGES)[:5]).assign(hash=hashes), tmp_path, image_size=8)
    assert list(done.images["row"]) == [100, 101, 102]
    assert done.failed[["reason", "attempts"]].to_numpy().tolist() == [["hash_mismatch", 1]] * 2
    assert set(web.asked.values()) == {1}


def test_only_what_a_kill_left_half_written_is_fetched_again(web: Web, tmp_path: Path) -> None:
    table = table_of(web, *IMAGES)
    download(table, tmp_path)
    # A process that was killed leaves its last line half written; a power failure can lose the end
    # of the images.
    images, records = next(tmp_path.glob("*.images")), next(tmp_path.glob("*.jsonl"))
    lines = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    offset = json.loads(lines[-2])["offset"]
    os.truncate(images, offset + 1)
    done = download(table, tmp_path)
    assert [done.read(row) for row in done.images["row"]] == list(IMAGES.values())
    assert sorted(web.asked.values()) == [1, 1, 1, 1, 2, 2]

    first = next(tmp_path.glob("*.images"))
    first.write_bytes(b"x" * first.stat().st_size)
    with pytest.raises(CorpusError, match="does not hold"):
        [done.read(row) for row in done.images["row"]]


def test_larger_images_are_made_smaller_and_no_others(web: Web, tmp_path: Path) -> None:
    large, wide = (encode(Image.new("RGB", size, "red")) for size in ((90, 60), (90, 40)))
    web.answers |= {"/large.png": large, "/wide.png": wide}
    done = download(table_of(web, "/large.png", "/wide.png", "/0.png"), tmp_path, image_size=40)
    with Image.open(io.BytesIO(done.read(100))) as image:
        assert (image.size, image.format) == (
            (60, 40),
            "JPEG",
        )  # the shorter side is bounded, as by img2dataset
    assert done.images["source_sha256"][0] == hashlib.sha256(large).hexdigest()
    assert done.read(101) == wide
    assert done.read(102) == IMAGES["/0.png"]


def test_an_image_that_kills_its_decoder_is_a_row_of_the_ledger(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python runs this where a process starts; paths of modules are handed down.
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "from react_pipeline.corpus import images\n"
        "decode = images.decode_image\n"
        "def decode_or_die(data, *given, **options):\n"
        f"    return os.abort() if data.endswith({MARK!r}) else decode(data, *given, **options)\n"
        "images.decode_image = decode_or_die\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    web.answers["/deadly.png"] = IMAGES["/0.png"] + MARK
    done = download(table_of(web, "/deadly.png", *IMAGES), tmp_path / "out", retries=0)
    assert len(done.images) == len(IMAGES)
    assert done.failed[["row", "reason", "detail"]].to_numpy().tolist() == [
        [100, "killed_decoder", "SIGABRT"]
    ]


def test_nothing_to_fetch_is_no_error(tmp_path: Path) -> None:
    done = download(pd.DataFrame({"row": [], "url": []}), tmp_path)
    assert len(done.images) == len(done.failed) == 0


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("HTTP Error 503: Service Unavailable", "http_503"),
        ("<urlopen error [Errno 111] Connection refused>", "unreachable"),
        ("<urlopen error timed out>", "timeout"),
        ("<urlopen error private_address: x is 10.0.0.1>", "private_address"),
        (
            "<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>",
            "bad_certificate",
        ),
        ("corrupt: OSError: HTTP Error 404", "corrupt"),
    ],
)
def test_errors_are_sorted_into_reasons(error: str, reason: str) -> None:
    assert reason_of(error)[0] == reason
