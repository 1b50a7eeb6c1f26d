"""Where the images of chosen corpus rows come from: byte ranges of the corpus' tars, or what its
kind brings.

Does not belong here: which rows are chosen (`retrieval`), the form of the training shards
(`collected`).
"""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from react_pipeline.corpus.images import BadSample
from react_pipeline.corpus.shards import Member, ShardLocation, open_shard, read_member
from react_pipeline.store import CorpusError

LEDGER_COLUMNS = ["row", "url", "reason", "detail", "attempts"]
"""Columns of the ledger of images that are not available."""

LOCATION = ["shard", "image_path", "image_offset", "image_bytes", "image_sha256", "caption"]
"""Columns of the corpus' metadata that locate and describe a pair."""


NETWORK_REMEDY = (
    "check the network and the corpus and run again (what was fetched is kept), or raise "
    "`corpus.download.max_failed_fraction` if the corpus has it"
)


def too_many_failed(
    reasons: Counter[str], good: int, allowed: float, remedy: str = NETWORK_REMEDY
) -> str:
    """Return what is wrong where more than a share of the images failed, which is the network or
    the corpus and not single images; "" where it is not more.
    """
    failed = reasons.total()
    total = failed + good
    if failed <= allowed * total:
        return ""
    often = ", ".join(f"{reason} ({count:,})" for reason, count in reasons.most_common(3))
    return (
        f"{failed:,} of {total:,} pairs cannot be used ({failed / total:.0%}, allowed are "
        f"{allowed:.0%}), most often {often}; {remedy}"
    )


class ImageSource(ABC):
    """The images of one corpus. `fetch` may be called again; what was fetched once is not fetched
    over the net again.

    Attributes:
        columns: Columns of the corpus' metadata that `fetch` needs in addition to `row`.
        identity: The column that identifies equal images before they are fetched.
    """

    def __init__(self, columns: list[str], identity: str) -> None:
        self.columns = columns
        self.identity = identity
        self._failed: dict[int, tuple[str, str, str, int]] = {}

    @property
    def fetches(self) -> bool:
        """Return whether images come over the net: a digest is known once one is fetched."""
        return self.identity != "image_sha256"

    @property
    def failed(self) -> dict[int, str]:
        """Return the reason why an image is not available, by corpus row; filled while `fetch` is
        exhausted.
        """
        return {row: reason for row, (_, reason, _, _) in self._failed.items()}

    @property
    def ledger(self) -> pd.DataFrame:
        """Return the same as a table: row, url, reason, detail, attempts, sorted by row."""
        rows = [(row, *entry) for row, entry in sorted(self._failed.items())]
        return pd.DataFrame(rows, columns=LEDGER_COLUMNS).astype(
            {"row": "int64", "attempts": "int64"}
        )

    def refuse(self, row: int, error: BadSample, url: str = "") -> None:
        """Count the image of a row as not available."""
        # Not the error itself, whose traceback holds the bytes of the image.
        self._failed[row] = url, error.reason, error.detail, error.attempts

    def fetchable(self, rows: pd.DataFrame) -> pd.Series:
        """Return whether each row, described by `columns`, names an image that may be fetched."""
        return pd.Series(True, rows.index)

    @abstractmethod
    def fetch(self, rows: pd.DataFrame) -> Iterator[tuple[Any, bytes]]:
        """Get the images of some rows.

        Args:
            rows: Columns `row` and `columns`; others are handed through (`class` under the name
                `label`).

        Yields:
            The row as a named tuple, with `caption` and `image_sha256` of the image as it is in the
            corpus or on the web, and the image's bytes; in the order of the corpus. Unavailable
            rows are left out.

        Raises:
            CorpusError: If the corpus is not what it was.
        """


class TarSource(ImageSource):
    """Images by their byte ranges in the corpus' tars; one that cannot be read, or has another
    digest than `image_sha256` (if that is not ""), is an error.
    """

    def __init__(self, shards: Sequence[ShardLocation]) -> None:
        """Read from `shards`, in which the column `shard` is a position."""
        super().__init__(list(LOCATION), "image_sha256")
        self.shards = shards

    def fetch(self, rows: pd.DataFrame) -> Iterator[tuple[Any, bytes]]:
        """Read each image, shard by shard and forward within a shard.

        Raises:
            CorpusError: Naming shard and key, if a tar is gone or an image is not the one that was
                embedded.
        """
        ordered = rows.rename(columns={"class": "label"}).sort_values(
            ["shard", "image_offset", "row"], kind="stable"
        )
        for shard, inside in ordered.groupby("shard", sort=True):
            path = self.shards[int(shard)]
            with open_shard(path) as file:
                for pair in inside.itertuples(index=False):
                    image = read_member(file, Member(int(pair.image_offset), int(pair.image_bytes)))
                    digest = hashlib.sha256(image).hexdigest()
                    if pair.image_sha256 not in ("", digest):
                        raise CorpusError(
                            f"{path}: the image of {pair.image_path!r} is not the one that was "
                            "embedded; the shard has changed: put it back, or rematerialize "
                            "`corpus` and what follows it"
                        )
                    yield pair._replace(image_sha256=digest), image
