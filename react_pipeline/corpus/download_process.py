"""What runs in a downloading process: img2dataset's `Downloader` behind our guard, with our rules and our journal.

Belongs here: what is put in place of img2dataset's opener, resizer and writer. Does not belong here: which URLs are
tried and how often (`downloads`), what may be connected to (`web_access`), what makes an image usable (`images`).

Imported in the downloading processes only: img2dataset takes seconds to load.
"""

import hashlib
import io
import json
import os
import urllib.request
from pathlib import Path
from typing import IO, Any

from react_pipeline.corpus.download_journal import HASH_MISMATCH
from react_pipeline.corpus.images import BadImage, decode_image
from react_pipeline.corpus.web_access import guarded_opener
from react_pipeline.settings import DownloadConfig

# Else one of its packages asks a server for a newer version of itself.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from img2dataset.downloader import Downloader  # type: ignore[import-untyped]  # noqa: E402

IMAGES_SUFFIX, RECORDS_SUFFIX = ".images", ".jsonl"

_USER_AGENT_TOKEN = "img2dataset"  # noqa: S105 - its name for what servers see in User-Agent
_OPT_OUTS = ["noai", "noimageai", "noindex", "noimageindex"]
"""Answers that carry one of these in `X-Robots-Tag` are dropped, as img2dataset does by default."""
_JPEG_QUALITY = 95


class ImageDownloader(Downloader):
    """img2dataset's downloader of one file of URLs; picklable, so that any of its distributors may call it."""

    def __init__(self, directory: Path, urls_per_file: int, settings: DownloadConfig, max_pixels: int) -> None:
        """Write into `directory`; its files hold at most `urls_per_file` URLs."""
        super().__init__(
            sample_writer_class=JournalWriter,
            resizer=ImageCheck(max_pixels, settings.image_size),
            thread_count=settings.threads,
            save_caption=False,
            extract_exif=False,
            output_folder=str(directory),
            column_list=["url", "hash"],
            timeout=settings.timeout_seconds,
            number_sample_per_shard=urls_per_file,
            oom_shard_count=6,
            compute_hash="sha256",
            verify_hash_type=None,
            encode_format="jpg",
            # Retries are rounds of their own, after all others had their turn.
            retries=0,
            user_agent_token=_USER_AGENT_TOKEN,
            disallowed_header_directives=_OPT_OUTS,
            # What goes to the resizer with an image: no boxes here, but the hash that it must have.
            blurring_bbox_col="hash",
        )
        self.allow_private_addresses = settings.allow_private_addresses

    def __call__(self, row: tuple[int, str]) -> tuple[bool, tuple[int, str]]:
        """Fetch the URLs of one file; unlike the original, an error is raised and not printed."""
        urllib.request.install_opener(guarded_opener(allow_private_addresses=self.allow_private_addresses))
        self.download_shard(row)
        return True, row


class ImageCheck:
    """In place of img2dataset's resizer: an image is kept as it came, if it has its hash and the rules allow it."""

    def __init__(self, max_pixels: int, image_size: int | None) -> None:
        """Images with a side longer than `image_size` are made smaller and written as JPEG."""
        self.max_pixels, self.image_size = max_pixels, image_size

    def __call__(self, stream: IO[bytes], hash_wanted: str = "") -> tuple[Any, ...]:
        """Return (bytes, width, height, original width, original height, None), or five None and what is wrong."""
        data = stream.read()
        if hash_wanted and hash_of_length(data, len(hash_wanted)) != hash_wanted.lower():
            return *(None,) * 5, f"{HASH_MISMATCH}: not {hash_wanted[:64]}"
        try:
            image = decode_image(data, self.max_pixels)
        except BadImage as error:
            return *(None,) * 5, f"{error.reason}: {error.detail}"
        original = image.size
        if self.image_size is not None and max(original) > self.image_size:
            image.thumbnail((self.image_size, self.image_size))
            buffer = io.BytesIO()
            image.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
            data = buffer.getvalue()
        return data, *image.size, *original, None


def hash_of_length(data: bytes, digits: int) -> str:
    """The MD5 (32 digits) or SHA-256 of bytes."""
    return hashlib.new("md5" if digits == 32 else "sha256", data, usedforsecurity=False).hexdigest()


class JournalWriter:
    """In place of img2dataset's tars: each image is on record as soon as it came, so a kill loses none.

    Of file number N, `N.images` holds image files one after the other and `N.jsonl` one line a URL.
    """

    def __init__(self, shard_id: int, output_folder: str, *_: Any) -> None:
        stem = Path(output_folder) / f"{shard_id:06d}"
        self._images = stem.with_suffix(IMAGES_SUFFIX).open("xb")
        self._records = stem.with_suffix(RECORDS_SUFFIX).open("x", encoding="utf-8")
        self._fault: OSError | None = None

    def write(self, image: bytes | None, _key: str, _caption: str | None, meta: dict[str, Any]) -> None:
        """Put an image, or why there is none, on record."""
        if self._fault is not None:
            return
        try:
            record = {"url": meta["url"], "error": meta["error_message"]}
            if image is not None:
                kept = {"offset": self._images.tell(), "bytes": len(image), "sha256": hashlib.sha256(image).hexdigest()}
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
