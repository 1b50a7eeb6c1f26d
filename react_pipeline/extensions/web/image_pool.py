"""The pool of fetched images that all domains of a store share: a file an image.

Each build writes into a folder of its own and reads those of all, so processes never write to the
same file. A file is a line of JSON and the image; a kill leaves none half written. Does not belong
here: fetching (`downloads`).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from react_pipeline.corpus import BadImage
from react_pipeline.store import CorpusError

Wanted = tuple[str, str]
"""A URL, and the SHA-256 or MD5 that the file there must have; "" for any file."""


class ImagePool:
    """Images, and failures that another attempt would meet again.

    Attributes:
        folder: Of all builds with the same rules for images.
        own: The folder of this build.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.own = folder / secrets.token_hex(8)
        self._files: dict[str, Path] = {}

    def look(self) -> None:
        """Take stock of what is there."""
        for build in filter(Path.is_dir, self.folder.glob("*")):
            with os.scandir(build) as files:
                self._files |= {file.name: Path(file.path) for file in files}

    def has(self, wanted: Wanted) -> bool:
        """Return whether an image is there. One that a power failure cut is not.

        Raises:
            BadImage: If it is not available, as is known from an earlier attempt.
        """
        path = self._files.get(_name_of(wanted))
        if path is None:
            return False
        record: dict[str, Any] = {}
        with suppress(OSError, ValueError, RecursionError), path.open("rb") as file:
            record = json.loads(head := file.readline())
            record["whole"] = os.fstat(file.fileno()).st_size == len(head) + record.get("bytes", 0)
        if "reason" in record:
            raise BadImage(record["reason"], record["detail"])
        if not record.get("whole"):
            path.unlink(missing_ok=True)
        return bool(record.get("whole"))

    def read(self, wanted: Wanted) -> tuple[bytes, str]:
        """Return an image, and the SHA-256 of the file as it was on the web.

        Raises:
            CorpusError: If the pool no longer holds what was fetched; what it holds is removed.
        """
        path = self._files[_name_of(wanted)]
        with suppress(OSError, ValueError, KeyError, RecursionError):
            head, _, image = path.read_bytes().partition(b"\n")
            record = json.loads(head)
            if hashlib.sha256(image).hexdigest() == record["sha256"]:
                return image, str(record["source_sha256"])
        path.unlink(missing_ok=True)
        raise CorpusError(f"{path}: did not hold what was fetched, and was removed; run again")

    def mark_used(self, all_wanted: Iterable[Wanted]) -> None:
        """Mark the builds that hold some images as used now, for `prune`."""
        files = (self._files.get(_name_of(wanted)) for wanted in all_wanted)
        for build in {file.parent for file in files if file}:
            os.utime(build)


def keep_image(folder: Path, wanted: Wanted, image: bytes, source_sha256: str) -> None:
    """Put an image into the folder of a build."""
    record = {
        "sha256": hashlib.sha256(image).hexdigest(),
        "bytes": len(image),
        "source_sha256": source_sha256,
    }
    _write(folder, wanted, record, image)


def keep_failure(folder: Path, wanted: Wanted, error: BadImage) -> None:
    """Record why an image is not available."""
    _write(folder, wanted, {"reason": error.reason, "detail": error.detail})


def _write(folder: Path, wanted: Wanted, record: dict[str, Any], image: bytes = b"") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{secrets.token_hex(8)}.part"
    part.write_bytes(json.dumps({"url": wanted[0], **record}).encode() + b"\n" + image)
    part.replace(folder / _name_of(wanted))


def _name_of(wanted: Wanted) -> str:
    return hashlib.sha256("\0".join(wanted).encode()).hexdigest()[:40]
