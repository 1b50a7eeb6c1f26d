"""What runs in a downloading process: img2dataset's `Downloader` behind our guard, with our rules
and our journal.

Imported there only: img2dataset takes seconds to load. Does not belong here: which URLs are tried
and how often (`downloads`), what may be connected to (`web_access`), what makes an image usable
(`images`).
"""

import hashlib
import io
import os
import urllib.request
from pathlib import Path
from typing import IO, Any

from PIL import Image

from react_pipeline.corpus import BadImage, decode_apart
from react_pipeline.extensions.web.download_journal import HASH_MISMATCH, JournalWriter
from react_pipeline.extensions.web.web_access import guarded_opener
from react_pipeline.settings import DownloadConfig

# Else one of its packages asks a server for a newer version of itself.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from img2dataset.downloader import Downloader  # type: ignore[import-untyped]

_USER_AGENT_TOKEN = "img2dataset"  # noqa: S105 - its name for what servers see in User-Agent
_OPT_OUTS = ["noai", "noimageai", "noindex", "noimageindex"]
"""Answers that carry one of these in `X-Robots-Tag` are dropped, as img2dataset does by default."""
_JPEG_QUALITY = 95


def fetch_file(
    item: tuple[int, str],
    directory: Path,
    urls_per_file: int,
    settings: DownloadConfig,
    max_pixels: int,
) -> None:
    """Fetch a file of at most `urls_per_file` URLs, given by its number and path, into the journal
    in `directory`.

    Raises:
        OSError: If the disk refuses a write.
    """
    urllib.request.install_opener(
        guarded_opener(allow_private_addresses=settings.allow_private_addresses)
    )
    Downloader(
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
        # Its `__call__` would print an error and go on.
    ).download_shard(item)


class ImageCheck:
    """In place of img2dataset's resizer: an image is kept as it came, if it has its hash and the
    rules allow it.

    One whose shorter side is above `image_size` is reduced to it and written as JPEG: img2dataset's
    `keep_ratio` with `resize_only_if_bigger` and `skip_reencode`, by area, as REACT downloads its
    pairs.
    """

    def __init__(self, max_pixels: int, image_size: int | None) -> None:
        self.max_pixels = max_pixels
        self.image_size = image_size

    def __call__(self, stream: IO[bytes], hash_wanted: str = "") -> tuple[Any, ...]:
        """Return (bytes, width, height, original width, original height, None), or five None and
        what is wrong.
        """
        data = stream.read()
        algorithm = "md5" if len(hash_wanted) == 32 else "sha256"
        if (
            hash_wanted
            and hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()
            != hash_wanted.lower()
        ):
            return *(None,) * 5, f"{HASH_MISMATCH}: not {hash_wanted[:64]}"
        try:
            image, _ = decode_apart(data, self.max_pixels)
        except BadImage as error:
            return *(None,) * 5, f"{error.reason}: {error.detail}"
        original = image.size
        if self.image_size is not None and min(original) > self.image_size:
            scale = self.image_size / min(original)
            smaller = round(image.width * scale), round(image.height * scale)
            image = image.resize(smaller, Image.Resampling.BOX)
            buffer = io.BytesIO()
            image.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
            data = buffer.getvalue()
        return data, *image.size, *original, None
