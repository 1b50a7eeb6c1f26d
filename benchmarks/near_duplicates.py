"""Near duplicates among many pairs: seconds of comparing each row with all that were taken, and of
searching them by range.

Run `.venv/bin/python -m benchmarks.near_duplicates` from the repository's root. Rows are image
vectors of `benchmarks.clustered`, 512 numbers wide; each is asked about, and taken unless it is
near. Both ways run in this process and must take the same rows. Seconds are of this process's
processor time.
"""

from __future__ import annotations

import argparse
import math
import time
from unittest.mock import patch

import numpy as np

from benchmarks.clustered import Cloud, Vectors
from react_pipeline.extensions.near_duplicates import near_duplicates
from react_pipeline.extensions.near_duplicates.near_duplicates import NearDuplicates

BLOCK_ROWS = 1_024
"""Rows that are looked at together, as retrieval does."""

SIMILARITY = 0.95


def take(vectors: Vectors) -> tuple[list[int], float]:
    """The rows that are taken, and seconds."""
    started = time.process_time()
    near = NearDuplicates(vectors.__getitem__, SIMILARITY)
    taken = []
    for start in range(0, len(vectors), BLOCK_ROWS):
        rows = range(start, min(start + BLOCK_ROWS, len(vectors)))
        near.look(rows)
        for row in rows:
            if not near.is_near(row):
                near.take(row)
                taken.append(row)
    return taken, time.process_time() - started


def main() -> None:
    """Print a row for each number of rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[40_000, 80_000])
    given = parser.parse_args()
    print("| rows | taken | all pairs, s | range search, s | ratio |")
    print("|---|---|---|---|---|")
    for rows in given.rows:
        vectors = np.concatenate([images for images, _ in Cloud(rows).pairs()])
        searched, seconds = take(vectors)
        with patch.object(near_duplicates, "SEARCHED_ROWS", math.inf):
            compared, before = take(vectors)
        if searched != compared:
            raise RuntimeError("both ways must take the same rows")
        print(
            f"| {rows:,} | {len(searched):,} | {before:.1f} | {seconds:.1f} "
            f"| {before / seconds:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
