"""Images of chosen rows by URL, from real servers on loopback: nothing twice, every failure on
record, hostile servers given up.
"""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from support.deadly_images import MARK
from support.drawings import COLOURS, SHAPES, draw, encode
from support.web import (
    Answer,
    Web,
    cut,
    drip,
    dripping,
    failing_first,
    hanging,
    page,
    redirected,
    send,
    served,
)

from react_pipeline.corpus import decoding
from react_pipeline.extensions.sources import downloads, image_client
from react_pipeline.extensions.sources.downloads import UrlSource
from react_pipeline.extensions.sources.kinds import ReadyEmbeddings
from react_pipeline.store import CorpusError
from react_pipeline.web_policy import plain_url

IMAGES = {
    f"/{n}": encode(draw(SHAPES[n % 4], COLOURS[n // 4 % 4], n), ("png", "jpg", "webp")[n % 3])
    for n in range(12)
}
ONE = IMAGES["/0"]
BOMB = gzip.compress(bytes(1 << 20))


def robots(rules: str) -> Answer:
    return lambda handler, _: send(handler, ONE, X_Robots_Tag=rules)


def endless(handler: Any, _before: int, data: bytes = b"") -> None:
    if not data:
        handler.send_response(200)
    handler.end_headers()
    with suppress(OSError):
        while True:
            handler.wfile.write(data or b"x" * 65_536)


def dripping_head(handler: Any, _before: int) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    drip(handler)


def away_with_a_bomb(handler: Any, _before: int) -> None:
    """A redirect whose body never ends, and would be decompressed."""
    handler.send_response(302)
    handler.send_header("Location", "/0")
    handler.send_header("Content-Encoding", "gzip")
    endless(handler, 0, BOMB)


def zipped(handler: Any, _before: int) -> None:
    send(handler, b"\x1f\x8b" + bytes(100), Content_Encoding="gzip")


BROKEN: dict[str, tuple[Any, str, int]] = {
    # path: (answer, reason, attempts with one retry)
    "/gone": (None, "http_404", 1),
    "/page": (page, "not_an_image", 2),
    "/cut": (cut(ONE), "truncated", 2),
    "/half": (ONE[:200], "truncated", 2),
    "/hanging": (hanging, "timeout", 2),
    "/dripping": (dripping, "timeout", 2),
    "/dripping-head": (dripping_head, "timeout", 2),
    "/endless": (endless, "too_many_bytes", 1),
    "/zipped": (zipped, "not_an_image", 2),
    "/bomb": (encode(Image.new("1", (200, 200))), "too_many_pixels", 1),
    "/noai": (robots("noai"), "disallowed_by_header", 1),
    "/not-us": (robots("other: all, React-Pipeline: noindex"), "disallowed_by_header", 1),
    "/until": (
        robots("max-image-preview:large, unavailable_after: Wed, 25 Jun 2010 15:00:00 GMT, noai"),
        "disallowed_by_header",
        1,
    ),
    "/to-file": (redirected("file:///etc/hostname"), "refused_url", 1),
    "/loop": (redirected("/loop"), "unreachable", 2),
    "/empty": (b"", "empty", 2),
    "/private/a": (ONE, "disallowed_by_robots", 1),
    "/to-private": (redirected("/private/a"), "disallowed_by_robots", 1),
}
ROBOTS = b"User-agent: other\nDisallow: /\n\nUser-agent: react-pipeline\nDisallow: /private/\n"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_PAUSE_SECONDS", 0.01)


@pytest.fixture
def web() -> Iterator[Web]:
    with served(IMAGES) as server:
        yield server


def source_of(pool: Path, *, hash_column: str | None = None, **download: Any) -> UrlSource:
    settings = {"timeout_seconds": 2, "retries": 1, "allow_private_addresses": True, **download}
    corpus = ReadyEmbeddings.model_validate(
        {"embeddings": "x", "download": settings, "max_pixels": 10_000, "hash_column": hash_column}
    )
    return UrlSource(corpus, pool)


def rows_of(web: Web, *paths: str, **columns: Any) -> pd.DataFrame:
    urls = [web.url + path for path in paths]
    return pd.DataFrame({"row": range(len(paths)), "url": urls, "caption": "a", **columns})


def fetched(source: UrlSource, rows: pd.DataFrame) -> dict[int, bytes]:
    return {pair.row: image for pair, image in source.fetch(rows)}


def test_good_images_come_and_failures_have_reason_and_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_client, "MAX_RESPONSE_BYTES", 1 << 20)
    answers = {path: answer for path, (answer, _, _) in BROKEN.items() if answer is not None}
    answers |= {"/later": failing_first(1, ONE)}
    answers["/others"] = robots("other: noindex, unavailable_after: 1 Jan 2020")
    answers["/other"] = robots("other: max-snippet:5, noindex")
    with served({**answers, **IMAGES, "/robots.txt": ROBOTS}) as web:
        rows = rows_of(web, *BROKEN, "/later", "/others", "/other", *IMAGES)
        odd = pd.DataFrame({"row": [90, 91], "url": ["file:///etc/hostname", None], "caption": "a"})
        rows = pd.concat([rows, odd], ignore_index=True)
        source = source_of(tmp_path, timeout_seconds=1)
        images = fetched(source, rows.sample(frac=1, random_state=1))
        good = [*[ONE] * 3, *IMAGES.values()]
        assert list(images.items()) == [*enumerate(good, len(BROKEN))]
        ledger = source.ledger
        found = {row.row: (row.reason, row.attempts) for row in ledger.itertuples()}
        expected = {
            number: (reason, attempts)
            for number, (_, reason, attempts) in enumerate(BROKEN.values())
        }
        assert found == {**expected, 90: ("refused_url", 0), 91: ("refused_url", 0)}
        assert web.asked["/robots.txt"] == 2, "once a round"
        assert web.asked["/loop"] == 2 * (image_client.MAX_REDIRECTS + 1)
        assert not web.asked["/private/a"]
        assert {web.asked[path] for path in IMAGES} == {1}

        # Again: nothing is asked for. By another build what may pass is, and nothing else.
        before = web.asked.copy()
        assert fetched(source, rows) == images
        pd.testing.assert_frame_equal(source.ledger, ledger)
        assert web.asked == before
        again = source_of(tmp_path, retries=0, timeout_seconds=1)
        assert fetched(again, rows) == images
        asked = {path for path, count in (web.asked - before).items() if path != "/robots.txt"}
        assert asked == {
            path for path, (_, reason, _) in BROKEN.items() if reason not in downloads.PERMANENT
        }


def test_a_pair_has_its_digest_and_a_short_caption(web: Web, tmp_path: Path) -> None:
    captions = [" one ", None, "x" * 3_000]
    rows = rows_of(web, "/0", "/1", "/0", caption=captions, **{"class": "birds"})
    source = source_of(tmp_path)
    pairs = [pair for pair, _ in source.fetch(rows.assign(image_sha256=""))]
    digest = hashlib.sha256(ONE).hexdigest()
    assert [(pair.row, pair.label, pair.caption, pair.image_sha256) for pair in pairs] == [
        (0, "birds", "one", digest),
        (2, "birds", "x" * 2_000, digest),
    ]
    assert source.failed == {1: "empty_caption"}
    assert dict(web.asked) == {"/0": 1}


def test_two_builds_at_once_fetch_an_image_once(web: Web, tmp_path: Path) -> None:
    rows = rows_of(web, *IMAGES)
    sources = [source_of(tmp_path) for _ in range(2)]
    with ThreadPoolExecutor() as threads:
        first, second = threads.map(lambda source: fetched(source, rows), sources)
    assert first == second and len(first) == 12 and set(web.asked.values()) == {1}


def test_processes_fetch_as_one_does(web: Web, tmp_path: Path) -> None:
    web.answers["/page"] = page
    source = source_of(tmp_path, processes=2)
    assert fetched(source, rows_of(web, *IMAGES, "/page")) == dict(enumerate(IMAGES.values()))
    assert source.ledger[["reason", "attempts"]].to_numpy().tolist() == [["not_an_image", 2]]
    assert {web.asked[path] for path in IMAGES} == {1}


def test_a_file_with_another_hash_is_refused(web: Web, tmp_path: Path) -> None:
    first, second = list(IMAGES.values())[:2]
    md5 = hashlib.new("md5", second, usedforsecurity=False).hexdigest().upper()
    others = [hashlib.sha256(b"x").hexdigest(), hashlib.new("md5", b"x").hexdigest()]  # noqa: S324
    hashes = [hashlib.sha256(first).hexdigest(), md5, None, *others]
    rows = rows_of(web, *list(IMAGES)[:5], hash=hashes)
    source = source_of(tmp_path, hash_column="hash", image_size=8)
    assert list(fetched(source, rows)) == [0, 1, 2]
    assert source.failed == {3: "hash_mismatch", 4: "hash_mismatch"}
    assert set(web.asked.values()) == {1}
    assert len(fetched(source_of(tmp_path, image_size=8), rows)) == 5


def test_an_image_that_a_power_failure_cut_is_fetched_again(web: Web, tmp_path: Path) -> None:
    rows = rows_of(web, *IMAGES)
    fetched(source_of(tmp_path), rows)
    files = sorted(tmp_path.glob("*/*/*"))
    files[0].write_bytes(files[0].read_bytes()[:-1])
    files[1].write_bytes(b"")
    assert fetched(source_of(tmp_path), rows) == dict(enumerate(IMAGES.values()))
    assert sorted(web.asked.values()) == [1] * 10 + [2] * 2
    # What was changed later is not taken, and removed.
    data = files[2].read_bytes()
    files[2].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorpusError, match="run again"):
        fetched(source_of(tmp_path), rows)
    assert len(fetched(source_of(tmp_path), rows)) == 12


def test_larger_images_are_made_smaller_and_no_others(web: Web, tmp_path: Path) -> None:
    large, wide = (encode(Image.new("RGB", size, "red")) for size in ((90, 60), (90, 40)))
    web.answers |= {"/large": large, "/wide": wide}
    pairs = list(source_of(tmp_path, image_size=40).fetch(rows_of(web, "/large", "/wide", "/0")))
    with Image.open(io.BytesIO(pairs[0][1])) as image:
        assert (image.size, image.format) == ((60, 40), "JPEG")
    assert pairs[0][0].image_sha256 == hashlib.sha256(large).hexdigest()
    assert [image for _, image in pairs[1:]] == [wide, ONE]


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
    monkeypatch.setattr(decoding._decoder, "pool", None)
    web.answers["/deadly"] = ONE + MARK
    source = source_of(tmp_path / "out", retries=0)
    assert len(fetched(source, rows_of(web, "/deadly", *IMAGES))) == len(IMAGES)
    assert source.ledger[["row", "reason", "detail"]].to_numpy().tolist() == [
        [0, "killed_decoder", "SIGABRT"]
    ]


def test_the_body_of_a_redirect_is_never_read(web: Web, tmp_path: Path) -> None:
    web.answers["/away"] = away_with_a_bomb
    assert fetched(source_of(tmp_path, retries=0), rows_of(web, "/away")) == {0: ONE}


def test_a_robots_txt_elsewhere_is_obeyed(web: Web, tmp_path: Path) -> None:
    web.answers["/robots.txt"] = redirected("/rules")
    # The mark of UTF-8 before the first line, and an opt-out that is none of the images'.
    rules = b"\xef\xbb\xbfUser-agent: *\nDisallow: /private/\n"
    web.answers["/rules"] = lambda handler, _: send(handler, rules, X_Robots_Tag="noindex")
    web.answers["/private/a"] = ONE
    source = source_of(tmp_path, retries=0)
    assert list(fetched(source, rows_of(web, "/private/a", *IMAGES))) == [*range(1, 13)]
    assert source.failed == {0: "disallowed_by_robots"}
    assert web.asked["/robots.txt"] == web.asked["/rules"] == 1


def test_a_robots_txt_at_a_private_address_is_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_client, "is_public", lambda address: address == "127.0.0.2")
    with served({"/robots.txt": b""}) as private:
        away = redirected(f"{private.url}/robots.txt")
        with served({"/0": ONE, "/robots.txt": away}, "127.0.0.2") as public:
            source = source_of(tmp_path, allow_private_addresses=False, retries=0)
            assert not fetched(source, rows_of(public, "/0"))
    assert source.failed == {0: "private_address"}
    assert not private.asked


LOOPBACK = ["127.0.0.1", "localhost", "127.1", "0x7f000001", "2130706433", "0.0.0.0", "[::1]"]  # noqa: S104


def test_loopback_in_any_spelling_is_never_connected_to(web: Web, tmp_path: Path) -> None:
    urls = [web.url.replace("127.0.0.1", host) + "/0" for host in LOOPBACK]
    source = source_of(tmp_path, allow_private_addresses=False)
    rows = pd.DataFrame({"row": range(len(urls)), "url": urls, "caption": "a"})
    assert not fetched(source, rows)
    assert set(source.failed.values()) <= {"private_address", "unreachable"}
    assert source.failed[0] == source.failed[1] == "private_address"
    assert not web.asked


def test_the_address_that_was_checked_is_connected_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that resolves to another address the second time, and a redirect to a private one."""
    monkeypatch.setattr(image_client, "is_public", lambda address: address == "127.0.0.2")
    answers = []

    def resolve(_self: Any, host: str, port: int, **_: Any) -> Any:
        answers.append(host)
        public = (
            host == "xn--rebnding-e2a.example" and answers.count(host) == 1 or host == "127.0.0.2"
        )

        async def found() -> Any:
            return [(0, 0, 0, "", ("127.0.0.2" if public else "127.0.0.1", port))]

        return found()

    monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", resolve)
    hosts: list[str] = []

    def named(handler: Any, _before: int) -> None:
        hosts.append(handler.headers["Host"])
        send(handler, ONE)

    with served({"/0": ONE}) as private:
        target = redirected(f"{private.url}/0")
        with served({"/0": named, "/away": target, "/robots.txt": b""}, "127.0.0.2") as public:
            port = public.url.rpartition(":")[2]
            client_of = source_of(tmp_path, allow_private_addresses=False, threads=1, retries=0)
            # The second look-up, for the image after robots.txt, gives a private address.
            rows = rows_of(public, "/0", "/away")
            rows.loc[2] = [2, f"http://reb\u00ednding.example:{port}/0", "a"]
            assert list(fetched(client_of, rows)) == [0]
    assert client_of.failed == {1: "private_address", 2: "private_address"}
    assert hosts == [f"127.0.0.2:{port}"]
    assert not private.asked


PUBLIC = {"93.184.216.34", "2606:4700::1111"}
PRIVATE = {
    *("10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "127.0.0.1"),
    *("0.0.0.0", "224.0.0.1", "192.0.0.192", "168.63.129.16"),  # noqa: S104
    *("::1", "fe80::1%eth0", "fd00::1", "fec0::1", "::127.0.0.1", "::ffff:10.0.0.1"),
    *("::ffff:168.63.129.16", "::ffff:0:7f00:1"),
    *("2002:7f00:0001::", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1"),
}


def test_only_addresses_of_the_public_internet_are_public() -> None:
    assert set(filter(image_client.is_public, PUBLIC | PRIVATE)) == PUBLIC


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("http://a.org/x.jpg", "http://a.org/x.jpg"),
        (" HTTPS://a.org/x y.jpg?q=%20&r='1' ", "HTTPS://a.org/x%20y.jpg?q=%20&r='1'"),
        ("http://bücher.example:81/é", "http://xn--bcher-kva.example:81/%C3%A9"),
        *dict.fromkeys(
            [
                "http://ü@bücher.example/",
                "http://" + "ü" * 70 + ".example/",
                "file:///etc/passwd",
                "pipe:rm -rf x",
                "data:image/png;base64,AAAA",
                "http://user:secret@a.org/x",
                "http:///x",
                "http://a.org:99999/x",
                "http://a.org/x\r\nHost: b",
                "http://[::1/x",
                "",
                None,
                float("nan"),
                "http://a.org/" + "x" * 9_000,
            ]
        ).items(),
    ],
)
def test_only_plain_web_addresses_pass(url: Any, plain: str | None) -> None:
    assert plain_url(url) == plain
