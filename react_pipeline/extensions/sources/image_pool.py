"""The pool of fetched images that all domains of a store share: a file an image.

A file is a line of JSON and the image; a kill leaves none half written. Does not belong here:
fetching (`downloads`).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from react_pipeline.corpus import BadImage
from react_pipeline.store import CorpusError

Wanted = tuple[str, str]
"""A URL, and the SHA-256 or MD5 that the file there must have; "" for any file."""


@dataclass(frozen=True)
class ImagePool:
    """Images that were fetched by the same rules, and failures that another attempt would meet
    again.
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
        path = self._file(wanted)
        record: dict[str, Any] = {}
        with suppress(OSError, ValueError, RecursionError), path.open("rb") as file:
            record = json.loads(head := file.readline())
            record["whole"] = os.fstat(file.fileno()).st_size == len(head) + record.get("bytes", 0)
        if "reason" in record:
            raise BadImage(record["reason"], record["detail"])
        return bool(record.get("whole"))

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

    def keep_image(self, wanted: Wanted, image: bytes, source_sha256: str) -> None:
        """Put an image into the pool."""
        record = {
            "sha256": hashlib.sha256(image).hexdigest(),
            "bytes": len(image),
            "source_sha256": source_sha256,
        }
        self._write(wanted, record, image)

    def keep_failure(self, wanted: Wanted, error: BadImage) -> None:
        """Record why an image is not available."""
        self._write(wanted, {"reason": error.reason, "detail": error.detail})

    def _write(self, wanted: Wanted, record: dict[str, Any], image: bytes = b"") -> None:
        path = self._file(wanted)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{secrets.token_hex(8)}")
        part.write_bytes(json.dumps({"url": wanted[0], **record}).encode() + b"\n" + image)
        part.replace(path)
