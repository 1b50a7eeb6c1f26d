"""Images of chosen rows by their URLs: which are tried and how often, in which processes, which are
usable, and the pool of them that all domains of a store share.

What came is in the pool at once, so a call that was killed and one that is repeated take the same
way. Does not belong here: the requests (`image_client`), which rows are chosen (`retrieval`).
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from react_pipeline.corpus import BadImage, ImageSource, decode_apart, in_processes, progress
from react_pipeline.extensions.sources.kinds import TableColumns
from react_pipeline.settings import DownloadConfig
from react_pipeline.store import CorpusError, hash_value, locked
from react_pipeline.web_policy import MAX_URL_CHARS, REFUSED_URL, plain_url

HASH_MISMATCH = "hash_mismatch"
PERMANENT = frozenset(
    {
        HASH_MISMATCH,
        REFUSED_URL,
        "disallowed_by_header",
        "disallowed_by_robots",
        "http_401",
        "http_403",
        "http_404",
        "http_410",
        "http_451",
        "private_address",
        "too_elongated",
        "too_many_bytes",
        "too_many_pixels",
        "too_much_memory",
        "too_slow",
        "unsupported_mode",
    }
)
"""Reasons that another attempt would meet again; what failed for any other is retried."""

_PAUSE_SECONDS = 1.0
_TASK_URLS = 2_000
"""Of a task of a process; fewer where all would not have one."""
_JPEG_QUALITY = 95

Wanted = tuple[str, str]
"""A URL, and the SHA-256 or MD5 that the file there must have; "" for any file."""
Errors = list[tuple[Wanted, BadImage]]


class UrlSource(ImageSource):
    """Images by their URLs, fetched once into the pool and checked by the corpus' rules for
    images. Two builds at once take turns, to fetch nothing twice.
    """

    def __init__(self, corpus: TableColumns, pool: Path) -> None:
        """Fetch nothing yet."""
        super().__init__(["url", "caption", *(["hash"] if corpus.hash_column else [])], "url")
        self.corpus = corpus
        rules = corpus.download.identity() | {"retries": None, "max_pixels": corpus.max_pixels}
        self.pool = ImagePool(pool / hash_value(rules)[:16])
        self._given_up: dict[Wanted, BadImage] = {}

    def fetchable(self, rows: pd.DataFrame) -> pd.Series:
        """Return whether each URL is a plain one; no round of fetching is spent on others."""
        return rows["url"].map(lambda url: plain_url(url) is not None)

    def fetch(self, rows: pd.DataFrame) -> Iterator[tuple[Any, bytes]]:
        """Fetch what is not there yet, then give each image; a row without a caption fails as
        `empty_caption`. Rows of equal URL share one image, with the hash of the first.

        Raises:
            CorpusError: If a downloading process dies.
            OSError: If the disk refuses a write.
        """
        pairs = rows.rename(columns={"class": "label"}).sort_values("row", kind="stable")
        captions = pairs["caption"].fillna("").astype(str).str.strip()
        pairs["caption"] = captions.str[: self.corpus.max_caption_chars].str.strip()
        pairs["image_sha256"] = ""
        hashes = pairs["hash"].fillna("") if self.corpus.hash_column else [""] * len(pairs)
        wanted: dict[str, Wanted] = {}
        placed: list[tuple[Any, Wanted]] = []
        for pair, digest in zip(pairs.itertuples(index=False), hashes, strict=True):
            url = plain_url(pair.url)
            if url is None:
                self._fail(pair, BadImage(REFUSED_URL, "not a plain http or https URL", 0))
            elif not pair.caption:
                self._fail(pair, BadImage("empty_caption", "", 0))
            else:
                placed.append((pair, wanted.setdefault(url, (url, digest))))
        with locked(self.pool.folder / ".lock"):
            os.utime(self.pool.folder)  # used now, for `prune`
            if missing := [one for one in wanted.values() if not self._is_known(one)]:
                self._download(missing)
        for pair, one in placed:
            if error := self._given_up.get(one):
                self._fail(pair, error)
            else:
                image, source_sha256 = self.pool.read(one)
                yield pair._replace(image_sha256=source_sha256), image

    def _download(self, missing: Sequence[Wanted]) -> None:
        """Fetch images into the pool.

        What failed is tried again, at most `retries` times, after everything else had its turn,
        unless its reason is `PERMANENT`.
        """
        task = DownloadTask(self.pool, self.corpus.download, self.corpus.max_pixels)
        for attempt in range(1, self.corpus.download.retries + 2):
            errors = dict(chain.from_iterable(_spread(task, missing)))
            for one in missing:
                self._given_up.pop(one, None)
            for error in errors.values():
                error.attempts = attempt
            self._given_up |= errors
            missing = [one for one, error in errors.items() if error.reason not in PERMANENT]
            if not missing:
                break
            time.sleep(attempt * _PAUSE_SECONDS)

    def _is_known(self, one: Wanted) -> bool:
        try:
            return one in self._given_up or self.pool.has(one)
        except BadImage as error:
            self._given_up[one] = error.with_traceback(None)
            return True

    def _fail(self, pair: Any, error: BadImage) -> None:
        self.refuse(int(pair.row), error, str(pair.url)[:MAX_URL_CHARS])


def _spread(task: DownloadTask, wanted: Sequence[Wanted]) -> Iterator[Errors]:
    """One attempt at each: here, or in processes."""
    processes = task.settings.processes
    if processes == 1:
        yield task(wanted)
        return
    size = max(1, min(_TASK_URLS, -(-len(wanted) // processes)))
    parts = [wanted[start : start + size] for start in range(0, len(wanted), size)]
    remedy = "with fewer `processes` or `threads` of `corpus.download`"
    yield from in_processes(task, parts, [{}] * processes, "downloading images", remedy)


@dataclass(frozen=True)
class DownloadTask:
    """One attempt at some images, on many connections at once. It may go to another process."""

    pool: ImagePool
    settings: DownloadConfig
    max_pixels: int

    def __call__(self, wanted: Sequence[Wanted]) -> Errors:
        """Fetch what is wanted into the pool, and return why something did not come."""
        from anyio.from_thread import start_blocking_portal

        # Another thread: in a notebook this one runs an event loop already.
        with start_blocking_portal() as portal:
            return portal.call(self._fetch_all, wanted)

    async def _fetch_all(self, wanted: Sequence[Wanted]) -> Errors:
        from react_pipeline.extensions.sources.image_client import ImageClient

        errors: Errors = []
        rest = iter(wanted)
        if self.settings.processes == 1:
            rest = progress(wanted, "downloading images", "image", len(wanted))
        # Names are looked up in threads too, and some servers of names are slow.
        threads = ThreadPoolExecutor(2 * self.settings.threads)
        asyncio.get_running_loop().set_default_executor(threads)
        async with aclosing(ImageClient(self.settings)) as client:

            async def fetch_some() -> None:
                for one in rest:
                    try:
                        data = await client.get(one[0])
                        await asyncio.to_thread(self._keep, one, data)
                    except BadImage as error:
                        # A new one, without the traceback, which holds the bytes of the image.
                        errors.append((one, BadImage(error.reason, error.detail)))
                        if error.reason in PERMANENT:
                            self.pool.keep(one, reason=error.reason, detail=error.detail)

            await asyncio.gather(*(fetch_some() for _ in range(self.settings.threads)))
        return errors

    def _keep(self, one: Wanted, data: bytes) -> None:
        """Keep an image as it came; one whose shorter side is above `image_size` is
        reduced to it by area, as REACT downloads its pairs with img2dataset (`keep_ratio`,
        `resize_only_if_bigger`).

        Raises:
            BadImage: If it has another hash than it must have, or the corpus' rules forbid it.
        """
        _, digest = one
        algorithm = "md5" if len(digest) == 32 else "sha256"
        found = hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()
        if digest and found != digest.lower():
            raise BadImage(HASH_MISMATCH, f"not {digest[:64]}")
        image = decode_apart(data, self.max_pixels)
        source_sha256 = hashlib.sha256(data).hexdigest()
        size = self.settings.image_size
        if size is not None and min(image.size) > size:
            scale = size / min(image.size)
            smaller = round(image.width * scale), round(image.height * scale)
            buffer = io.BytesIO()
            image.resize(smaller, Image.Resampling.BOX).save(buffer, "JPEG", quality=_JPEG_QUALITY)
            data = buffer.getvalue()
        self.pool.keep(one, data, source_sha256=source_sha256)


@dataclass(frozen=True)
class ImagePool:
    """Images that were fetched by the same rules, and failures that another attempt would meet
    again.

    A file is a line of JSON and the image; a kill leaves none half written.
    """

    folder: Path

    def _file(self, wanted: Wanted) -> Path:
        name = hashlib.sha256("\0".join(wanted).encode()).hexdigest()[:40]
        return self.folder / name[:2] / name

    def has(self, wanted: Wanted) -> bool:
        """Return whether an image is there. One that a power failure cut is not.

        Raises:
            BadImage: If it is not available, as is known from an earlier attempt.
        """
        damaged = OSError, ValueError, KeyError, TypeError, RecursionError
        with suppress(*damaged), self._file(wanted).open("rb") as file:
            record = json.loads(head := file.readline())
            if "reason" in record:
                raise BadImage(record["reason"], record["detail"])
            return bool(os.fstat(file.fileno()).st_size == len(head) + record["bytes"])
        return False

    def read(self, wanted: Wanted) -> tuple[bytes, str]:
        """Return an image, and the SHA-256 of the file as it was on the web.

        Raises:
            CorpusError: If the pool no longer holds what was fetched; what it holds is removed.
        """
        path = self._file(wanted)
        with suppress(OSError, ValueError, KeyError, RecursionError):
            head, _, image = path.read_bytes().partition(b"\n")
            record = json.loads(head)
            if hashlib.sha256(image).hexdigest() == record["sha256"]:
                return image, str(record["source_sha256"])
        path.unlink(missing_ok=True)
        raise CorpusError(f"{path}: did not hold what was fetched, and was removed; run again")

    def keep(self, wanted: Wanted, image: bytes = b"", **record: str) -> None:
        """Put an image into the pool with its `source_sha256`, or `reason` and `detail` why it is
        not available.
        """
        found = {"sha256": hashlib.sha256(image).hexdigest(), "bytes": len(image), **record}
        path = self._file(wanted)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{secrets.token_hex(8)}")
        part.write_bytes(json.dumps({"url": wanted[0], **found}).encode() + b"\n" + image)
        part.replace(path)
