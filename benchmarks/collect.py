"""Collecting chosen pairs out of tars by byte range, against reading the tars through.

Run `.venv/bin/python -m benchmarks.collect` from the repository's root; `--page
benchmarks/results.md` writes the table into that page. It needs 2.3 GB in `--scratch`, which are
removed at the end, and about two minutes.

100 tars of 1,000 pairs are written; images are random bytes, 20 kB on average, spread as those of a
web corpus. Then 0.1%, 1% and 10% of the pairs are collected into training shards, by
`collect_pairs` and by reading every tar through from its start to its end (`tarfile` as a stream,
which skips what was not chosen but must read it) into the same shards. Both give the same bytes,
which is checked. Before each run the tars are dropped from the page cache, so that both read from
the disk. Where pairs are is known, as it is once a corpus is embedded: the range reads are given
the table of offsets, reading through needs only names.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks.pages import make_parser, show_section
from react_pipeline.corpus import collect_pairs
from react_pipeline.corpus.image_source import TarSource
from react_pipeline.pages import markdown_table

TARS, PAIRS = 100, 1_000
FRACTIONS = (0.001, 0.01, 0.1)
MEAN_IMAGE_BYTES = 20_000
BEGIN, END = "<!-- collect:begin -->", "<!-- collect:end -->"
MIB = 2**20


def write_tars(directory: Path, tars: int) -> tuple[list[Path], pd.DataFrame]:
    """The tars, and the table of where their images are."""
    chance = np.random.default_rng(0)
    paths, located = [], []
    for number in tqdm(range(tars), desc="writing tars", unit="tar", leave=False, disable=None):
        path = directory / f"{number:05d}.tar"
        sizes = (chance.lognormal(0, 0.6, PAIRS) / np.exp(0.18) * MEAN_IMAGE_BYTES).astype(
            int
        ) + 100
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for pair, size in enumerate(sizes):
                image, key = chance.bytes(int(size)), f"{number:05d}{pair:04d}"
                located.append(
                    (number, key, tar.offset + tarfile.BLOCKSIZE, len(image), _digest(image))
                )
                for extension, data in (("jpg", image), ("txt", b"a caption"), ("json", b"{}")):
                    member = tarfile.TarInfo(f"{key}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        paths.append(path)
    table = pd.DataFrame(
        located, columns=["shard", "image_path", "image_offset", "image_bytes", "image_sha256"]
    )
    return paths, table.assign(row=range(len(table)), caption="a caption", **{"class": ""})


class ReadThrough:
    """An image source that reads every tar from its start to its end."""

    columns: Sequence[str] = ()
    identity = "image_sha256"

    def __init__(self, shards: Sequence[Path]) -> None:
        """Of these tars."""
        self.shards, self.failed = shards, {}

    def fetch(self, rows: pd.DataFrame) -> Iterator[tuple[Any, bytes]]:
        """Keep the images that are wanted, with the check that the range reads make too."""
        wanted = {
            f"{row.image_path}.jpg": row
            for row in rows.rename(columns={"class": "label"}).itertuples()
        }
        for path in self.shards:
            with path.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
                for member in tar:
                    if (pair := wanted.get(member.name)) is not None:
                        image = tar.extractfile(member).read()  # type: ignore[union-attr]
                        if _digest(image) != pair.image_sha256:
                            raise AssertionError(member.name)
                        yield pair, image


def drop_from_cache(paths: Sequence[Path]) -> None:
    """Let the next read come from the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def timed(
    make: Callable[[], Any], rows: pd.DataFrame, paths: Sequence[Path], directory: Path
) -> float:
    """Seconds of collecting."""
    drop_from_cache(paths)
    source, began = make(), time.perf_counter()
    collect_pairs(source.fetch(rows), directory, 1_000, len(rows))
    return time.perf_counter() - began


def measure(scratch: Path, tars: int, repeats: int) -> tuple[pd.DataFrame, int]:
    """One row a fraction: best seconds and bytes read of both ways, taken in turns; and the size of
    all tars.
    """
    (scratch / "corpus").mkdir()
    paths, table = write_tars(scratch / "corpus", tars)
    size_bytes = sum(path.stat().st_size for path in paths)
    found = []
    for fraction in FRACTIONS:
        rows = table.sample(frac=fraction, random_state=0)
        by_range, through = [], []
        for turn in range(repeats):
            a, b = scratch / f"ranges-{fraction}-{turn}", scratch / f"through-{fraction}-{turn}"
            by_range.append(timed(lambda: TarSource(paths), rows, paths, a))
            through.append(timed(lambda: ReadThrough(paths), rows, paths, b))
            for path in a.iterdir():
                if _digest(path.read_bytes()) != _digest((b / path.name).read_bytes()):
                    raise AssertionError(f"{path.name} differs")
            for path in [*a.iterdir(), *b.iterdir()]:
                path.unlink()
        row = {"fraction": fraction, "pairs": len(rows), "bytes": int(rows["image_bytes"].sum())}
        found.append(row | {"seconds": min(by_range), "seconds_through": min(through)})
    return pd.DataFrame(found), size_bytes


def to_markdown(table: pd.DataFrame, size_bytes: int, tars: int) -> str:
    """The table, and what it was measured on."""
    rows = [
        [
            f"{row.fraction:.1%}",
            row.pairs,
            f"{row.seconds:.2f} s",
            f"{row.bytes / MIB:,.0f} MiB",
            f"{row.seconds_through:.2f} s",
            f"{size_bytes / MIB:,.0f} MiB",
            f"{row.seconds_through / row.seconds:.1f}",
            f"{size_bytes / row.bytes:.1f}",
        ]
        for row in table.itertuples()
    ]
    columns = ["taken", "pairs", "by range", "read", "reading through", "read", "ratio of time"]
    of = (
        f"{tars} tars of {PAIRS:,} pairs, {size_bytes / MIB:,.0f} MiB, dropped from the page "
        "cache each time."
    )
    return f"{markdown_table([*columns, 'of bytes'], rows)}\n{of}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    """Measure, print, and write the page if asked to."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--scratch", type=Path, help="folder for the tars; by default the system's temporary folder"
    )
    parser.add_argument("--tars", type=int, default=TARS)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="react-collect-", dir=given.scratch) as scratch:
        table, size_bytes = measure(Path(scratch), given.tars, given.repeats)
    show_section(to_markdown(table, size_bytes, given.tars), given.page, BEGIN, END)


if __name__ == "__main__":
    main()
