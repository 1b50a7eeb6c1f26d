"""The journal of a download: what is on record of each URL, and what that means for another
attempt.

Of file number N, `N.images` holds image files one after the other and `N.jsonl` one line a URL.
Does not belong here: what is tried (`downloads`).
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from react_pipeline.extensions.web.bounded_body import TOO_MANY_BYTES
from react_pipeline.extensions.web.public_addresses import PRIVATE_ADDRESS
from react_pipeline.web_policy import REFUSED_URL

HASH_MISMATCH = "hash_mismatch"

_OURS_FOR_GOOD = (
    HASH_MISMATCH,
    REFUSED_URL,
    PRIVATE_ADDRESS,
    TOO_MANY_BYTES,
    "too_many_pixels",
    "too_elongated",
    "too_large_tiles",
    "too_many_scans",
    "too_slow",
    "too_much_memory",
    "unsupported_mode",
)
PERMANENT = frozenset(
    {
        "http_401",
        "http_403",
        "http_404",
        "http_410",
        "http_451",
        "disallowed_by_header",
        *_OURS_FOR_GOOD,
    }
)
"""Reasons that another attempt would meet again; what failed for any other is retried."""

_OURS = ("empty", "not_an_image", "truncated", "corrupt", "killed_decoder", *_OURS_FOR_GOOD)
_OWN_REASON = re.compile(rf"\b({'|'.join(_OURS)}): ")
_REASONS_BY_MARK = {
    "timed out": "timeout",
    "IncompleteRead": "truncated",
    "X-Robots-Tag": "disallowed_by_header",
    "CERTIFICATE": "bad_certificate",
}


@dataclass(frozen=True)
class Kept:
    """Where an image is in the journal."""

    path: Path
    offset: int
    size_bytes: int
    sha256: str
    source_sha256: str


@dataclass
class Journal:
    """What is on record in a directory, by URL.

    Attributes:
        errors: What each attempt that failed met, in order.
        next_number: Of the next pair of files.
    """

    kept: dict[str, Kept] = field(default_factory=dict)
    errors: dict[str, list[str]] = field(default_factory=dict)
    next_number: int = 0

    @classmethod
    def read(cls, directory: Path, earlier: Sequence[Path] = ()) -> Self:
        """Read all files of a directory; a line that was cut by a kill counts as not written.

        Args:
            earlier: Directories of other downloads, of which failures count that are `PERMANENT`,
                but for a hash: another table may demand another one.
        """
        journal = cls()
        for folder in earlier:
            journal._add(folder)
        journal.errors = {
            url: [errors[-1]]
            for url, errors in journal.errors.items()
            if reason_of(errors[-1])[0] in PERMANENT - {HASH_MISMATCH}
        }
        journal._add(directory)
        numbers = (int(path.stem) for path in directory.glob("*.jsonl"))
        journal.next_number = max(numbers, default=-1) + 1
        return journal

    def _add(self, directory: Path) -> None:
        for path in sorted(directory.glob("*.jsonl")):
            images = path.with_suffix(".images")
            size_bytes = images.stat().st_size if images.exists() else 0
            for record in _records(path):
                if "error" in record:
                    self.errors.setdefault(record["url"], []).append(str(record["error"]))
                # After a power failure the record can be there without the image.
                elif record["offset"] + record["bytes"] <= size_bytes:
                    self.kept[record["url"]] = Kept(
                        images,
                        record["offset"],
                        record["bytes"],
                        record["sha256"],
                        record["source_sha256"],
                    )

    def forget_other_files(self, hashes: Mapping[str, str]) -> None:
        """Forget images that have another SHA-256 than is demanded now of their URL."""
        for url, demanded in hashes.items():
            kept = self.kept.get(url)
            if kept and len(demanded) == 64 and kept.source_sha256 != demanded.lower():
                del self.kept[url]

    def is_worth_trying(self, url: str, retries: int) -> bool:
        """Whether the image is missing, attempts are left, and its last error may pass."""
        if url in self.kept:
            return False
        errors = self.errors.get(url, [])
        return len(errors) <= retries and not (errors and reason_of(errors[-1])[0] in PERMANENT)


class JournalWriter:
    """In place of img2dataset's tars: each image is on record as soon as it came, so a kill loses
    none.
    """

    def __init__(self, shard_id: int, output_folder: str, *_: Any) -> None:
        stem = Path(output_folder) / f"{shard_id:06d}"
        self._images = stem.with_suffix(".images").open("xb")
        self._records = stem.with_suffix(".jsonl").open("x", encoding="utf-8")
        self._fault: OSError | None = None

    def write(
        self, image: bytes | None, _key: str, _caption: str | None, meta: dict[str, Any]
    ) -> None:
        """Put an image, or why there is none, on record."""
        if self._fault is not None:
            return
        try:
            record = {"url": meta["url"], "error": meta["error_message"]}
            if image is not None:
                kept = {
                    "offset": self._images.tell(),
                    "bytes": len(image),
                    "sha256": hashlib.sha256(image).hexdigest(),
                }
                record = {"url": meta["url"], **kept, "source_sha256": meta["sha256"]}
                self._images.write(image)
                self._images.flush()
            self._records.write(json.dumps(record) + "\n")
            self._records.flush()
        except OSError as error:
            # img2dataset would print it and go on.
            self._fault = error

    def close(self) -> None:
        """Put both files on the disk.

        Raises:
            OSError: What went wrong in `write`.
        """
        if self._fault is not None:
            raise self._fault
        for file in (self._images, self._records):
            os.fsync(file.fileno())
            file.close()


def _records(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().split(b"\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            # The last line of a process that was killed while it wrote.
            continue
        if isinstance(record, dict) and "url" in record:
            yield record


def reason_of(error: str) -> tuple[str, str]:
    """A short reason for the ledger, made of an error's text, and the text itself."""
    if match := _OWN_REASON.search(error):
        return match[1], error[match.end() : match.end() + 200].rstrip(">")
    # urllib's message for a redirect to another scheme.
    if "Redirection to url" in error:
        return REFUSED_URL, error[:200]
    if match := re.search(r"HTTP Error (\d{3})", error):
        return f"http_{match[1]}", error[:200]
    reason = next(
        (reason for mark, reason in _REASONS_BY_MARK.items() if mark in error), "unreachable"
    )
    return reason, error[:200]
